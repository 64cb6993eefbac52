"""The part of the command line that reads and checks: reports, the gate, the inventory, the self-test, the doctor."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_hut.bench.ids import check_slot_id
from pytest_hut.cli.exits import EXPLAINED
from pytest_hut.contracts.handoff import CHOICES

Add = Callable[..., argparse.ArgumentParser]
"""Adds a command by its name and what it does; with `bench=False` one that has no use for slots.toml."""


def add_evidence_commands(add: Add, add_lock_timeout: Callable[..., None]) -> None:
    """Add the commands; `add_lock_timeout` adds the option that says how long to wait for a slot."""
    _add_report(add("report", "show, validate, merge and rebuild reports", bench=False))
    _add_handoff(add("handoff", "print the hand-over line of a job", bench=False))
    gate_summary = "exit 0 only if tests passed on a commit, on real boards, with their evidence unchanged"
    _add_gate(add("gate", gate_summary, bench=False))
    _add_inventory(add("inventory", "write down what is plugged in, matched to the slots"))
    _add_selftest(add("selftest", "prove what the bench relies on"), add_lock_timeout)
    doctor = add("doctor", "look whether this host is ready, and say what to do where it is not")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")


def _add_report(command: argparse.ArgumentParser) -> None:
    whats = command.add_subparsers(dest="what", metavar="show|validate|merge|rebuild", required=True)
    show = _sub(whats, "show", "print what a report says, for a person")
    show.add_argument("report", metavar="REPORT")
    show.add_argument("--json", action="store_true", help="print the report as JSON, checked")
    validate = _sub(whats, "validate", "check reports against ws2.report.v1")
    validate.add_argument("reports", metavar="REPORT", nargs="+")
    merge = _sub(whats, "merge", "make one report out of several, e.g. of one job for each slot")
    merge.add_argument("reports", metavar="REPORT", nargs="+")
    merge.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to write it")
    rebuild = _sub(whats, "rebuild", "make the report of a session that was killed, from its journals")
    rebuild.add_argument("folder", metavar="FOLDER", help="the folder of the job, or a copy of it")


def _add_handoff(command: argparse.ArgumentParser) -> None:
    command.add_argument("report", metavar="REPORT")
    command.add_argument("--role", choices=CHOICES["role"], help="who hands over (default: the role of the report)")
    command.add_argument(
        "--context", choices=CHOICES["context"], help="where it was done (default: what belongs to the role)"
    )
    command.add_argument("--action-type", choices=CHOICES["action_type"], default="execute", help="(default: execute)")
    command.add_argument(
        "--operator-required",
        choices=CHOICES["operator_required"],
        help="whether a person has to act (default: yes if the bench failed, or a board may be without power)",
    )
    command.add_argument(
        "--executor", choices=CHOICES["executor"], help="(default: ssh_direct in a login over ssh, else remote_codex)"
    )
    command.add_argument("--next-action", metavar="TEXT", type=_text, help="(default: that of the report)")
    command.add_argument("--branch", metavar="NAME", type=_text, help="(default: the one checked out here)")
    command.add_argument("--thread-ref", metavar="REF", type=_text, help="(default: that of the report)")


def _add_gate(command: argparse.ArgumentParser) -> None:
    command.add_argument("report", metavar="REPORT")
    command.add_argument(
        "--require",
        metavar="HW-ID",
        action="append",
        required=True,
        type=_text,
        help="a test that has to have passed wherever it ran, e.g. HW-BOOT-001; may be given again",
    )
    command.add_argument(
        "--commit", metavar="SHA", type=_commit, help="the full SHA it has to be of (default: any full SHA)"
    )
    command.add_argument("--allow-virtual", action="store_true", help="virtual boards count as well")


def _add_inventory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--probe", action="store_true", help="also ask each board that is free who it is; it is restarted by that"
    )
    _add_evidence(command)
    command.add_argument("--json", action="store_true", help="print one JSON object instead of the text")


def _add_selftest(command: argparse.ArgumentParser, add_lock_timeout: Callable[..., None]) -> None:
    whats = command.add_subparsers(dest="what", metavar="locks", required=True)
    locks = _sub(whats, "locks", "prove that slots are locked against each other, and against the flock command")
    locks.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the bench, for the slots' locks")
    locks.add_argument(
        "--slots",
        metavar="ID,ID",
        type=_two_slots,
        help="use the real lock files of these two slots (default: two files in a folder of their own)",
    )
    add_lock_timeout(locks, "--lock-timeout")
    _add_evidence(locks)


def _add_evidence(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--evidence", metavar="DIR", type=Path, help="make the job's folder below this one (default: build/hut)"
    )


def _sub(whats: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = whats.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _commit(text: str) -> str:
    from pytest_hut.recording.gate import check_commit

    try:
        return check_commit(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} will not do: {error}") from None


def _two_slots(text: str) -> list[str]:
    slot_ids = text.split(",")
    if len(slot_ids) != 2 or slot_ids[0] == slot_ids[1]:
        raise argparse.ArgumentTypeError(f"{text!r} will not do: give two slots, e.g. hut-01,hut-02")
    try:
        return [check_slot_id(slot_id) for slot_id in slot_ids]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} will not do: {error}") from None
