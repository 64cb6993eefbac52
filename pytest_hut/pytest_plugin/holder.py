"""Holding slots for the tests of one process: its own, another of the session, or several at once."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.board.hold import hold_locked_slot, slot_lock
from pytest_hut.board.slot import HutSlot
from pytest_hut.errors import InfrastructureError, SlotBusy
from pytest_hut.events.journal import Journal
from pytest_hut.lease.handover import borrowed_lock
from pytest_hut.lease.several import HeldLocks, take_each
from pytest_hut.pytest_plugin.progress import TerminalProgress
from pytest_hut.pytest_plugin.seat import Seat
from pytest_hut.recording.job import Job


class SlotHolder:
    """Holds slots, with evidence of their own each; knows which one the running test is about."""

    def __init__(self, config: pytest.Config, bench: Bench, job: Job, seat: Seat, locks: HeldLocks) -> None:
        """`locks` are those that this process holds already."""
        self._config = config
        self._bench = bench
        self._job = job
        self._seat = seat
        self._locks = locks
        self.boards: list[HutSlot] = []
        """Those held now; the first is the one that the running test is about, others are its partners."""
        self.failed_partner: str | None = None
        """The one that could not be had for a test, until somebody has noted it."""

    @property
    def held(self) -> HutSlot | None:
        """The slot that the running test is about; None while none is held."""
        return self.boards[0] if self.boards else None

    @contextlib.contextmanager
    def hold(self, slot_id: str) -> Iterator[HutSlot]:
        """Hold a slot while inside; SIGTERM inside ends the session in an orderly way.

        Raises:
            InfrastructureError: it cannot be had.
        """
        job, worker = self._job, self._seat.worker
        journal = Journal(job.slot_journal(slot_id, worker))
        name = job.evidence_name(slot_id, f"console_{worker}" if worker else "console", ".log")
        progress = TerminalProgress(self._config, slot_id)
        with (
            contextlib.closing(journal),
            _orderly_end_on_sigterm(),
            self._locked(self._bench.slots[slot_id], progress) as (lock_fd, waited_s),
            hold_locked_slot(
                self._bench.slots[slot_id],
                self._bench,
                lock_fd,
                waited_s=waited_s,
                journal=journal,
                console_log=job.path / slot_id / name,
                progress=progress,
            ) as slot,
        ):
            slot.flash_mode = self._config.getoption("hut_flash")
            self.boards.append(slot)
            try:
                yield slot
            finally:
                self.boards.remove(slot)

    @contextlib.contextmanager
    def hold_team(self, first: HutSlot, partners: list[str]) -> Iterator[list[HutSlot]]:
        """Hold `partners` while inside; `first`, which is held already, comes first in what is yielded.

        Raises InfrastructureError where they cannot be had.
        """
        with contextlib.ExitStack() as others:
            boards = [first]
            for slot_id in partners:
                try:
                    boards.append(others.enter_context(self.hold(slot_id)))
                except InfrastructureError:
                    self.failed_partner = slot_id
                    raise
            yield boards

    def take_all_locks(self) -> None:
        """Take the locks of all slots of the session in their one order, unless this process holds locks already."""
        if self._locks.locks:
            return
        locks = {
            slot_id: slot_lock(self._bench.slots[slot_id], self._job.job_id) for slot_id in self._seat.session_slots
        }
        progress = TerminalProgress(self._config, "hut")
        timeout_s = self._config.getoption("hut_lock_timeout")
        try:
            self._locks.take_over(take_each(locks, timeout_s, progress.line))
        except InfrastructureError as error:
            self._locks.busy.update(dict.fromkeys(locks, str(error)))  # Each test on a slot says so.

    @contextlib.contextmanager
    def _locked(self, slot: Slot, progress: TerminalProgress) -> Iterator[tuple[int, float]]:
        """Hold the lock of a slot while inside; yields its descriptor and how many seconds it was waited for."""
        if slot.id in self._locks.locks:
            yield self._locks.locks[slot.id].fileno(), self._locks.waited_s[slot.id]
        elif slot.id in self._locks.busy:
            raise SlotBusy(self._locks.busy[slot.id])
        elif self._seat.lock_office:
            with borrowed_lock(self._seat.lock_office, slot.id) as lock_fd:
                yield lock_fd, self._seat.waited_s.get(slot.id, 0.0)
        else:
            start = time.monotonic()
            timeout_s = self._config.getoption("hut_lock_timeout")
            with slot_lock(slot, self._job.job_id).acquire(timeout_s, progress.line) as lock:
                yield lock.fileno(), time.monotonic() - start


@contextlib.contextmanager
def _orderly_end_on_sigterm() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGTERM")

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
