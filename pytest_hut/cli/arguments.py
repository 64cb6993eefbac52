"""The command line: what may be said, checked as far as that needs no files."""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import NoReturn

from pytest_hut import __version__
from pytest_hut.bench.ids import check_slot_id
from pytest_hut.board.flash_modes import FLASH_MODES
from pytest_hut.cli.evidence_arguments import add_evidence_commands
from pytest_hut.cli.exits import EXPLAINED, USAGE
from pytest_hut.cli.firmware_arguments import add_firmware_actions
from pytest_hut.cli.job_arguments import add_job_commands

LOCK_TIMEOUT_S = 600.0
LAST_TCP_PORT = 65535

ALL = "all"
"""Names every slot of slots.toml."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; `command` names the module that runs them.

    Raises SystemExit: 0 after `--help` and `--version`, 2 after one line on standard error.
    """
    parser = _parser()
    if arguments[:1] != ["lock"]:
        return parser.parse_args(arguments)
    # Split here, because argparse would take the options of the command for its own.
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, unknown = parser.parse_known_args(arguments[:at])
    options.command_line = arguments[at + 1 :]
    if not options.command_line:
        parser.error("give the command to run behind --, for example: hut lock hut-01 -- make flash")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"hut: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hut",
        description="Boards on the bench, from the command line: what there is, locking, flashing, listening, power.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hut {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_slots(commands)
    _add_virtual(commands)
    _add_flash(commands)
    _add_monitor(commands)
    _add_power(commands)
    _add_lock(commands)
    add_firmware_actions(_command(commands, "firmware", "keep firmware by the commit it was built from"))
    add_job_commands(functools.partial(_command, commands, bench=False), _seconds)
    add_evidence_commands(functools.partial(_command, commands), _add_lock_timeout)
    return parser


_Commands = argparse._SubParsersAction  # The type has no public name.


def _add_slots(commands: _Commands[_Parser]) -> None:
    command = _command(commands, "slots", "list the slots: free or held by whom, port there or not")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _add_virtual(commands: _Commands[_Parser]) -> None:
    command = _command(commands, "virtual", "serve virtual boards until Ctrl-C or SIGTERM")
    command.add_argument(
        "slots",
        metavar="SLOT",
        nargs="*",
        type=_slot_id,
        help="slots to serve (default: the virtual ones of slots.toml, or else hut-01 and hut-02)",
    )
    command.add_argument("--chip", metavar="CHIP", help="make every board this chip (default: what slots.toml says)")
    command.add_argument(
        "--rfc2217-port",
        metavar="N",
        type=_tcp_port,
        help="TCP port of the first board, the next board gets the next (default: free ones)",
    )
    command.add_argument("--state", metavar="DIR", type=Path, help="where the boards keep their flash and power state")
    command.add_argument("--firmware", metavar="PATH|demo", help="put this firmware into every board's flash first")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a slots.toml")


def _add_flash(commands: _Commands[_Parser]) -> None:
    command = _command(commands, "flash", "put firmware on boards, verify it, and watch them boot")
    command.add_argument(
        "slots", metavar="SLOT[,SLOT...]|all", type=_slot_ids, help="several are flashed at once; all: of slots.toml"
    )
    command.add_argument(
        "firmware",
        metavar="FIRMWARE",
        help="a build folder, a manifest, a merged .bin, or a zip of these; or demo, on virtual slots",
    )
    command.add_argument(
        "--flash",
        dest="flash_mode",
        choices=FLASH_MODES,
        default="auto",
        help="auto: write what differs, trust what a slot is known to hold (default); verify: let the chip prove it; "
        "always: write everything; never: write nothing, the boot banner must prove it",
    )
    _add_holding_options(command)
    command.add_argument("--evidence", metavar="DIR", type=Path, help="make the job's folder below this one")


def _add_monitor(commands: _Commands[_Parser]) -> None:
    command = _command(commands, "monitor", "show what a board prints; on a terminal Ctrl-] ends")
    command.add_argument("slot", metavar="SLOT", type=_slot_id)
    _add_holding_options(command)
    command.add_argument("--reset", action="store_true", help="restart the board first")
    command.add_argument("--seconds", metavar="N", type=_seconds, help="end after so many seconds")
    command.add_argument("--timestamps", action="store_true", help="begin every line with the UTC time")
    command.add_argument("--no-input", action="store_true", help="send nothing: keys stay with the terminal")
    command.add_argument("--log", metavar="FILE", type=Path, help="also record everything in this new file")


def _add_power(commands: _Commands[_Parser]) -> None:
    command = _command(commands, "power", "switch the power of a board, and prove it; or look how its relay stands")
    command.add_argument("action", metavar="on|off|cycle|state", choices=("on", "off", "cycle", "state"))
    command.add_argument("slot", metavar="SLOT", type=_slot_id)
    command.add_argument("--off-s", metavar="N", type=_seconds, help="cycle: seconds off (default: as in slots.toml)")
    command.add_argument("--on-s", metavar="N", type=_seconds, help="cycle: seconds to wait once it is on again")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    _add_holding_options(command)
    command.add_argument("--evidence", metavar="DIR", type=Path, help="make the job's folder below this one")


def _add_lock(commands: _Commands[_Parser]) -> None:
    command = _command(
        commands, "lock", "run a command while the slot is locked", usage="hut lock [options] SLOT -- COMMAND ..."
    )
    command.add_argument("slot", metavar="SLOT", type=_slot_id)
    _add_lock_timeout(command, "--timeout", "--lock-timeout")


def _command(
    commands: _Commands[_Parser], name: str, summary: str, usage: str | None = None, *, bench: bool = True
) -> _Parser:
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        usage=usage,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if bench:
        command.add_argument("--config", metavar="FILE", help="the bench (default: $HUT_CONFIG, ./slots.toml, ...)")
    return command


def _add_holding_options(command: _Parser) -> None:
    command.add_argument("--virtual", action="store_true", help="the slot is a virtual one: no hardware is touched")
    _add_lock_timeout(command, "--lock-timeout")


def _add_lock_timeout(command: _Parser, *names: str) -> None:
    command.add_argument(
        *names,
        dest="lock_timeout",
        metavar="SECONDS",
        type=_seconds,
        default=LOCK_TIMEOUT_S,
        help=f"how long to wait for a slot that somebody else holds; 0: not at all (default: {LOCK_TIMEOUT_S:g})",
    )


def _slot_id(text: str) -> str:
    try:
        return check_slot_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no slot id: {error}") from None


def _slot_ids(text: str) -> list[str]:
    slot_ids = [_slot_id(word.strip()) for word in text.split(",")]
    if len(set(slot_ids)) < len(slot_ids):
        raise argparse.ArgumentTypeError(f"{text!r} names a slot twice")
    if ALL in slot_ids and slot_ids != [ALL]:
        raise argparse.ArgumentTypeError(f"{text!r}: {ALL} stands alone")
    return slot_ids


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give seconds, 0 or more")
    return seconds


def _tcp_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= LAST_TCP_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no TCP port: give a number from 1 to {LAST_TCP_PORT}")
    return int(text)
