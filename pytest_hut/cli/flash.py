"""`hut flash`: put firmware on a board, prove that it is there, and watch it boot. A job with evidence of its own."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.board.bootlog_model import Boot
from pytest_hut.board.slot import Firmware
from pytest_hut.cli.choice import the_firmware, the_slot
from pytest_hut.cli.exits import OK
from pytest_hut.cli.holding import held_slot
from pytest_hut.cli.progress import shown_progress
from pytest_hut.cli.recorded import job_for, recorded
from pytest_hut.errors import ProductError
from pytest_hut.events.journal import Journal
from pytest_hut.recording.job import Job

STAY_UP_S = 0.5
"""A firmware that crashes right behind its banner did not boot in the eyes of whoever flashed it."""


def run(options: argparse.Namespace) -> int:
    """Flash and boot. Raises HutError: whatever went wrong, with whose fault it is."""
    bench, slot = the_slot(options.slot, options.config, virtual=options.virtual)
    images = the_firmware(options.firmware, slot)
    job = job_for(options.evidence, bench)
    with (
        _evidence_told(job),
        recorded(job, [slot]),
        contextlib.closing(Journal(job.slot_journal(slot.id, ""))) as journal,
        shown_progress(slot.id) as progress,
        held_slot(
            slot,
            bench,
            job=job.job_id,
            lock_timeout_s=options.lock_timeout,
            journal=journal,
            console_log=job.path / slot.id / job.evidence_name(slot.id, "console", ".log"),
            progress=progress,
        ) as held,
    ):
        firmware = held.flash(images)
        boot = held.expect_boot()
        _require_the_flashed_one(boot, firmware)
        held.console.expect_to_stay_up(STAY_UP_S)
    print(f"{slot.id}: {_told(boot)}")
    return OK


@contextlib.contextmanager
def _evidence_told(job: Job) -> Iterator[None]:
    """Say at the end, good or bad, where the job's evidence is."""
    try:
        yield
    finally:
        here = Path.cwd()
        print(f"evidence: {job.path.relative_to(here) if job.path.is_relative_to(here) else job.path}", flush=True)


def _require_the_flashed_one(boot: Boot, firmware: Firmware) -> None:
    """Raise ProductError when the board says that it runs another application than the one just flashed."""
    printed, expected = boot.elf_sha256 or "", firmware.elf_sha256 or ""
    # All zero: the build did not fill it in, and it proves nothing.
    if printed.strip("0") and expected.strip("0") and not expected.startswith(printed):
        raise ProductError(
            f"{boot.partition} {boot.app_version} (ELF {printed}) booted, not the {firmware.identity.boot_partition} "
            f"{firmware.version} (ELF {expected[: len(printed)]}) that was flashed: what else is in the flash, such as "
            "otadata, selects it"
        )


def _told(boot: Boot) -> str:
    what = " ".join(word for word in (boot.partition, boot.project, boot.app_version) if word) or "the application"
    facts = [boot.reset_reason, f"ELF {boot.elf_sha256}" if boot.elf_sha256 else ""]
    took = f" in {boot.app_s - boot.reset_s:.2f} s" if boot.app_s is not None and boot.reset_s is not None else ""
    return f"{what} booted{took} ({', '.join(fact for fact in facts if fact)})"
