"""`hut power`: switch the power of a board and prove it, or look how its relay stands.

Switching is done under the slot's lock. Where an ancestor of this process carries that lock (a session whose test runs
this command, or `hut lock`), the command acts under it instead of waiting for it for ever; commands that do so on one
slot still run one after the other. Everybody else waits, and is busy in the end.

A virtual board's relay is there only while somebody serves the board, so this command serves it too; its power state is
on disk, and a session that serves the same board follows that at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import replace

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.cli.choice import the_slot
from pytest_hut.cli.exits import OK, RELAY_ERROR, RELAY_TIMEOUT
from pytest_hut.cli.recorded import job_for, recorded
from pytest_hut.errors import ConfigError
from pytest_hut.events.journal import Journal
from pytest_hut.events.types import SlotLeased, SlotReleased
from pytest_hut.lease.lent import taken_or_lent
from pytest_hut.power.held import held_power
from pytest_hut.power.open import relay_for
from pytest_hut.power.relay import Relay
from pytest_hut.power.result import PowerResult
from pytest_hut.recording.job import Job
from pytest_hut.recording.report import shown_path
from pytest_hut.virtual.slots import VirtualSlots

EXIT_CODES = {"ok": OK, "timeout": RELAY_TIMEOUT, "ha_error": RELAY_ERROR}

LEFT_OFF = "the board was left off, on purpose or because a holder ended before power was proved to be back"


def run(options: argparse.Namespace) -> int:
    """Do it and print the result. Raises HutError where there is none: busy, bad credentials, no record possible."""
    if options.action != "cycle" and (options.off_s is not None or options.on_s is not None):
        raise ConfigError(f"--off-s and --on-s are for hut power cycle, not for hut power {options.action}")
    bench, slot = the_slot(options.slot, options.config, virtual=options.virtual)
    if options.action == "state":
        result, job = _looked(bench, slot), None
    else:
        job = job_for(options.evidence, bench)
        result = _switched(bench, slot, job, options)
    evidence = shown_path(job.path) if job else None
    if options.json:
        print(json.dumps({"slot": slot.id, **result.to_json(), "evidence": evidence}))
    else:
        if evidence:
            print(f"evidence: {evidence}")
        print(f"{slot.id}: {_told(result)}")
    return EXIT_CODES[result.status]


def _looked(bench: Bench, slot: Slot) -> PowerResult:
    """Asking changes nothing, so it needs no lock."""
    with (
        VirtualSlots(bench, [slot.id]) as served,
        contextlib.closing(relay_for(served.bench.slots[slot.id], served.bench, lambda _event: None)) as relay,
    ):
        return relay.look()


def _switched(bench: Bench, slot: Slot, job: Job, options: argparse.Namespace) -> PowerResult:
    with (
        recorded(job, [slot]) as ending,
        contextlib.closing(Journal(job.slot_journal(slot.id, ""))) as journal,
        taken_or_lent(slot.lock, job.job_id, options.lock_timeout, _tell_waiting) as waited_s,
    ):
        with VirtualSlots(bench, [slot.id]) as served:
            slot = served.bench.slots[slot.id]
            if waited_s is not None:
                journal.append(
                    SlotLeased(
                        slot=slot.id,
                        lock=str(slot.lock),
                        waited_s=round(waited_s, 3),
                        pid=os.getpid(),
                        port=slot.port or "",
                        chip=slot.chip,
                        virtual=slot.virtual,
                    )
                )
            with held_power(slot, served.bench, journal.append, may_stay_off=True, power_first=False) as relay:
                result = _act(relay, options, first_holder=waited_s is not None)
        if waited_s is not None:
            journal.append(SlotReleased(slot=slot.id))
        ending.code, ending.reason = EXIT_CODES[result.status], result.reason if not result.ok else ""
    return result


def _act(relay: Relay, options: argparse.Namespace, *, first_holder: bool) -> PowerResult:
    """Switch. The holder of the slot's lock makes good first what an earlier one owes; a guest leaves that to him."""
    if options.action == "off":
        return relay.off()
    restored = relay.restore(LEFT_OFF) if first_holder else None
    if options.action == "on":
        return restored or relay.on()
    if restored is not None and not restored.ok:
        return replace(restored, action="cycle")
    return relay.cycle(off_s=options.off_s, on_s=options.on_s)


def _told(result: PowerResult) -> str:
    if result.action == "state":
        return result.last_state if result.ok else f"{result.status}: {result.reason}"
    if not result.ok:
        return f"{result.action}: {result.status} after {result.seconds:.1f} s: {result.reason}"
    proved = f"proved by {', '.join(result.proved_by)}" if result.proved_by else "not proved"
    remark = f"; {result.reason}" if result.reason else ""
    return f"{result.action}: ok in {result.seconds:.1f} s, {proved}{remark}"


def _tell_waiting(text: str) -> None:
    sys.stderr.write(f"hut: {text}\n")
