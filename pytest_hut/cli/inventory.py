"""`hut inventory`: what is plugged in, matched to the slots, as an evidence file."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from dataclasses import asdict
from pathlib import Path

from pytest_hut.bench.discovery import BY_ID, discover
from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.places import find_config
from pytest_hut.cli.exits import OK, in_one_line
from pytest_hut.cli.holding import held_slot
from pytest_hut.cli.progress import shown_progress
from pytest_hut.cli.recorded import job_for, recorded
from pytest_hut.errors import HutError, SlotBusy
from pytest_hut.events.journal import Journal
from pytest_hut.events.types import utc_now
from pytest_hut.host import user_name
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.recording.inventory import ChipSeen, Inventory, SlotSeen, inventory_text, slot_seen
from pytest_hut.recording.job import Job
from pytest_hut.recording.report import shown_path


def run(options: argparse.Namespace) -> int:
    """Write the inventory. Raises ConfigError: slots.toml is bad; InfrastructureError: it cannot be written."""
    config = find_config(options.config, Path.cwd())
    bench = load_bench(config) if config else Bench()
    devices = discover()
    inventory = Inventory(
        utc=utc_now(),
        hostname=socket.gethostname(),
        user=user_name(),
        config=str(config) if config else None,
        by_id_folder=str(BY_ID),
        devices=devices,
        slots=[slot_seen(slot, devices, _holder(slot)) for slot in bench.slots.values()],
    )
    job = job_for(options.evidence, bench)
    if options.probe and bench.slots:
        with recorded(job, list(bench.slots.values())):
            for seen in inventory.slots:
                _probe(seen, bench, job)
    else:
        for seen in inventory.slots:
            seen.not_probed_because = "--probe was not given"
    path = job.path / job.evidence_name("hil_topo", "inventory", ".log")
    text = inventory_text(inventory)
    path.write_text(text, encoding="utf-8", errors="replace")
    if options.json:
        slots = [asdict(seen) for seen in inventory.slots]
        found = [{**asdict(device), "slot": inventory.slot_of(device)} for device in devices]
        print(json.dumps({**asdict(inventory), "slots": slots, "devices": found, "evidence": str(path)}, indent=2))
    else:
        print(f"{text}\nevidence: {shown_path(path)}")
    return OK


def _holder(slot: Slot) -> str | None:
    holder = LockFile(slot.lock).holder()
    return str(holder) if holder else None


def _probe(seen: SlotSeen, bench: Bench, job: Job) -> None:
    """Ask the board who it is and restart it into its application; a slot that is busy is left alone."""
    if seen.held_by is not None:
        seen.not_probed_because = "the slot is held"
        return
    if seen.port_present is False:
        seen.not_probed_because = "its port is not there"
        return
    slot = bench.slots[seen.slot]
    try:
        with (
            contextlib.closing(Journal(job.slot_journal(slot.id, ""))) as journal,
            shown_progress(slot.id) as progress,
            held_slot(
                slot,
                bench,
                job=job.job_id,
                lock_timeout_s=0.0,
                journal=journal,
                console_log=job.path / slot.id / job.evidence_name(slot.id, "console", ".log"),
                progress=progress,
            ) as held,
        ):
            try:
                facts = held.identify()
            finally:
                held.reset()
    except SlotBusy:
        seen.held_by = _holder(slot) or "somebody until just now"
        seen.not_probed_because = "the slot is held"
    except (HutError, OSError) as error:
        seen.not_probed_because = in_one_line(error)
    else:
        seen.probed = ChipSeen(facts.chip, facts.revision, facts.mac, facts.flash_size)
