"""Hold a slot for one command: its lock, its virtual board if it is a virtual one, and the board."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.board.hold import hold_locked_slot, slot_lock
from pytest_hut.board.progress import Progress
from pytest_hut.board.slot import HutSlot
from pytest_hut.events.journal import Journal
from pytest_hut.virtual.slots import VirtualSlots


@contextlib.contextmanager
def held_slot(
    slot: Slot,
    bench: Bench,
    *,
    job: str,
    lock_timeout_s: float,
    journal: Journal,
    console_log: Path,
    progress: Progress,
) -> Iterator[HutSlot]:
    """Hold `slot` while inside. Whatever happens inside, the board ends powered on and the lock is free.

    A virtual board is started behind the lock, so that it boots what its last holder left in its flash.

    Raises:
        SlotBusy: somebody else holds it for longer than `lock_timeout_s` seconds.
        HutError: what `board.hold.hold_locked_slot` raises, or the virtual board could not be started.
    """
    start = time.monotonic()
    with slot_lock(slot, job).acquire(lock_timeout_s, progress.line) as lock:
        waited_s = time.monotonic() - start
        with (
            VirtualSlots(bench, [slot.id]) as served,
            hold_locked_slot(
                served.bench.slots[slot.id],
                served.bench,
                lock.fileno(),
                waited_s=waited_s,
                journal=journal,
                console_log=console_log,
                progress=progress,
            ) as held,
        ):
            yield held
