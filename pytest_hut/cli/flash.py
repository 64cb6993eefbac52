"""`hut flash`: put firmware on boards, prove that it is there, and watch it boot. A job with evidence of its own."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.places import user_cache_dir
from pytest_hut.board.bootlog_model import Boot
from pytest_hut.board.flasher import get_ready
from pytest_hut.board.progress import Progress
from pytest_hut.board.slot import Firmware
from pytest_hut.cli.children import Outcome, on_each
from pytest_hut.cli.choice import the_firmware, the_slots
from pytest_hut.cli.exits import BUSY, INFRASTRUCTURE, INTERRUPTED, OK, PRODUCT, USAGE
from pytest_hut.cli.holding import held_slot
from pytest_hut.cli.progress import shown_progress, shown_progresses
from pytest_hut.cli.recorded import job_for, recorded
from pytest_hut.errors import ConfigError, InfrastructureError, ProductError, SlotBusy
from pytest_hut.events.journal import Journal
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.power.open import load_driver
from pytest_hut.recording.job import Job
from pytest_hut.recording.report import shown_path

STAY_UP_S = 0.5
"""A firmware that crashes right behind its banner did not boot in the eyes of whoever flashed it."""

FAULTS = {
    INTERRUPTED: (KeyboardInterrupt, "interrupted"),
    USAGE: (ConfigError, "configuration"),
    PRODUCT: (ProductError, "the firmware"),
    INFRASTRUCTURE: (InfrastructureError, "the bench"),
    BUSY: (SlotBusy, "busy"),
}
"""What is raised, and what is said of a slot, by exit code. The first that occurs on any slot is that of the command:
what was learned of a firmware counts more than what could not be learned."""


def run(options: argparse.Namespace) -> int:
    """Flash and boot. Raises HutError: whatever went wrong, with whose fault it is."""
    bench, slots = the_slots(options.slots, options.config, virtual=options.virtual)
    firmware = _firmware_for(slots, options.firmware)
    job = job_for(options.evidence, bench)

    def work(slot: Slot, progress: Progress) -> str:
        return _flash(slot, bench, firmware[slot.id], job, options, progress)

    with _told_at_the_end(job) as results, recorded(job, slots):
        if len(slots) == 1:
            with shown_progress(slots[0].id) as progress:
                results.append(f"{slots[0].id}: {work(slots[0], progress)}")
            return OK
        _get_ready_for_all(slots, firmware)
        outcomes = on_each(slots, work, shown_progresses([slot.id for slot in slots]), _show_failure)
        results += [f"{outcome.slot_id}: {outcome.text}" for outcome in outcomes if outcome.code == OK]
        _require_all_well(outcomes)
    return OK


def _get_ready_for_all(slots: Sequence[Slot], firmware: Mapping[str, ImageSet]) -> None:
    """Do once what each slot would do for itself."""
    for images, chip in {id(firmware[slot.id]): (firmware[slot.id], slot.chip) for slot in slots}.values():
        get_ready(images.images, chip, user_cache_dir() / "flash")
    for slot in slots:
        load_driver(slot)
    if any(slot.virtual for slot in slots):
        import_module("pytest_hut.virtual.client")


def _show_failure(outcome: Outcome, progress: Progress) -> None:
    if outcome.code != OK:
        progress.line(f"failed ({FAULTS[outcome.code][1]}): {outcome.text}")


def _firmware_for(slots: Sequence[Slot], name: str) -> Mapping[str, ImageSet]:
    """Return the images by slot id, read once for all slots that take the same. Raises what `the_firmware` raises."""
    read: dict[tuple[str, bool], ImageSet] = {}
    for slot in slots:
        if (slot.chip, slot.virtual) not in read:
            read[slot.chip, slot.virtual] = the_firmware(name, slot)
    return {slot.id: read[slot.chip, slot.virtual] for slot in slots}


def _flash(
    slot: Slot, bench: Bench, images: ImageSet, job: Job, options: argparse.Namespace, progress: Progress
) -> str:
    """Flash one slot, boot it, and say what booted."""
    with (
        contextlib.closing(Journal(job.slot_journal(slot.id, ""))) as journal,
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
        held.flash_mode = options.flash_mode
        firmware = held.flash(images)
        boot = held.expect_boot()
        _require_the_flashed_one(boot, firmware)
        held.console.expect_to_stay_up(STAY_UP_S)
    return _told(boot)


def _require_all_well(outcomes: Sequence[Outcome]) -> None:
    """Raise the gravest of what went wrong, with the names of all slots that failed."""
    failed = [outcome for outcome in outcomes if outcome.code != OK]
    if not failed:
        return
    kind, _ = FAULTS[min((outcome.code for outcome in failed), key=list(FAULTS).index)]
    names = ", ".join(f"{outcome.slot_id} ({FAULTS[outcome.code][1]})" for outcome in failed)
    raise kind(f"{len(failed)} of {len(outcomes)} slots failed: {names}")


@contextlib.contextmanager
def _told_at_the_end(job: Job) -> Iterator[list[str]]:
    """Say at the end, good or bad, where the job's evidence is, and then what is in the list by then."""
    results: list[str] = []
    try:
        yield results
    finally:
        print("\n".join([f"evidence: {shown_path(job.path)}", *results]), flush=True)


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
