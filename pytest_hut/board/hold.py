"""Hold a slot: lock it, give it its power back if somebody left it off, open its port, listen; and all of it back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.places import user_cache_dir, user_state_dir
from pytest_hut.board.console import Console
from pytest_hut.board.flash_memory import FlashMemory, carry_stamp, device_stamp
from pytest_hut.board.progress import Progress
from pytest_hut.board.raw_log import RawLog
from pytest_hut.board.reader import PortReader
from pytest_hut.board.slot import HutSlot
from pytest_hut.errors import PortError
from pytest_hut.events.journal import Journal
from pytest_hut.events.types import Event, PortLost, SlotLeased, SlotReleased
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.link.base import Link
from pytest_hut.link.open import link_for
from pytest_hut.power.held import held_power

__tracebackhide__ = True  # A test's author wants to see the test's line, not ours.


def slot_lock(slot: Slot, job: str) -> LockFile:
    """Return the lock of a slot; taking it and giving it back does not make what is remembered of its flash void."""
    return LockFile(slot.lock, job, lambda before, after: carry_stamp(_memory_file(slot), before, after))


@contextlib.contextmanager
def hold_locked_slot(
    slot: Slot,
    bench: Bench,
    lock_fd: int,
    *,
    waited_s: float,
    journal: Journal,
    console_log: Path,
    progress: Progress,
) -> Iterator[HutSlot]:
    """Hold `slot`, whose lock the caller took (after `waited_s` seconds) and keeps, while inside.

    `lock_fd` is a descriptor of the lock file. Whatever happens inside, the board ends powered on.

    Raises:
        RelayError: its board is off and could not be switched on.
        PortError: its port is not there or not usable.
        ConfigError: the credentials of its relay are unusable.
    """
    if slot.port is None:
        raise ValueError(f"{slot.id} is virtual and its virtual board was not started")
    journal.append(
        SlotLeased(
            slot=slot.id,
            lock=str(slot.lock),
            waited_s=round(waited_s, 3),
            pid=os.getpid(),
            port=slot.port,
            chip=slot.chip,
            virtual=slot.virtual,
        )
    )
    with held_power(slot, bench, journal.append) as relay:
        link = link_for(slot.port, slot.console_baud)
        raw_log = RawLog(console_log)
        memory = FlashMemory()

        def note(event: Event) -> None:
            if isinstance(event, PortLost):
                memory.distrust()  # Another board may be there when it comes back.
            journal.append(event)

        reader = PortReader(link, raw_log, slot.id, note)
        try:
            link.open(slot.port_timeout_s)
            memory.take_over(_memory_file(slot), _stamp(link, lock_fd))
            reader.start()
            console = Console(link, reader, console_log)
            yield HutSlot(slot, link, reader, console, relay, note, progress, memory, user_cache_dir() / "flash")
            # Only where all went well: what an error left behind is not known.
            memory.save(_stamp(link, lock_fd))  # Let the next session trust it, as long as nobody comes between.
        finally:
            reader.stop()
            link.close()
            raw_log.close()
    journal.append(SlotReleased(slot=slot.id))


def _memory_file(slot: Slot) -> Path:
    return user_state_dir() / "slots" / f"{slot.id}.json"


def _stamp(link: Link, lock_fd: int) -> dict[str, int] | None:
    """What tells whether somebody else had the board: the state of its device, and of its lock."""
    try:
        device = device_stamp(link.name, link.descriptor())
    except PortError:
        return None
    return None if device is None else {**device, "lock": os.fstat(lock_fd).st_mtime_ns}
