"""Taking the locks of several slots, so that sessions on overlapping slots never wait for each other in a circle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_hut.errors import SlotBusy
from pytest_hut.lease.lockfile import POLL_S, REMIND_EVERY_S, LockFile

TURNSTILE = ".hut-choosing.lock"
"""Beside the slots' locks: sessions that take any of several slots choose one after the other."""


@dataclass
class HeldLocks:
    """Locks that are held, by slot id; `release` gives all back."""

    locks: dict[str, LockFile] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    """Slots that could not be had, and why."""

    def take_over(self, other: HeldLocks) -> None:
        """Become the holder of what `other` holds."""
        self.locks.update(other.locks)
        self.waited_s.update(other.waited_s)
        self.busy.update(other.busy)

    def release(self) -> None:
        """Give all locks back."""
        for lock in self.locks.values():
            lock.release()
        self.locks.clear()


def take_each(
    locks: Mapping[str, LockFile], timeout_s: float, on_wait: Callable[[str], None] | None = None
) -> HeldLocks:
    """Take every lock, in the order of the lock paths, which is the same for all sessions; each may take `timeout_s`.

    A slot that stays busy ends in `busy`, and the others are held all the same.
    Raises InfrastructureError where a path cannot be a lock file; nothing is held then.
    """
    held = HeldLocks()
    try:
        for slot_id, lock in _in_order(locks):
            start = time.monotonic()
            try:
                held.locks[slot_id] = lock.acquire(timeout_s, on_wait)
            except SlotBusy as error:
                held.busy[slot_id] = str(error)
            held.waited_s[slot_id] = time.monotonic() - start
    except BaseException:
        held.release()
        raise
    return held


def take_any(
    locks: Mapping[str, LockFile], count: int, timeout_s: float, on_wait: Callable[[str], None] | None = None
) -> HeldLocks:
    """Take any `count` of the locks, all at once: while they cannot be had together, none is held.

    Raises:
        SlotBusy: fewer than `count` are free when `timeout_s` seconds are over.
        InfrastructureError: a path cannot be a lock file.
    """
    start = remind_at = time.monotonic()
    turnstile = LockFile(next(iter(locks.values())).path.with_name(TURNSTILE))
    while True:
        with turnstile.acquire(timeout_s):
            held = _try_any(locks, count)
        now = time.monotonic()
        if len(held.locks) == count:
            held.waited_s = dict.fromkeys(held.locks, now - start)
            held.busy.clear()  # Others were free.
            return held
        held.release()
        free = len(locks) - len(held.busy)
        told = "; ".join(held.busy.values())
        if now - start >= timeout_s:
            raise SlotBusy(
                f"{count} slots are needed and {free} of {', '.join(locks)} free; gave up after {timeout_s:g} s "
                f"(wait longer with --hut-lock-timeout): {told}"
            )
        if on_wait is not None and now >= remind_at:
            on_wait(f"waiting for any {count} of {', '.join(locks)}: {told}")
            remind_at = now + REMIND_EVERY_S
        time.sleep(min(POLL_S, max(0.0, start + timeout_s - now)))


def _try_any(locks: Mapping[str, LockFile], count: int) -> HeldLocks:
    held = HeldLocks()
    for slot_id, lock in locks.items():
        holder = lock.holder()
        if holder is not None:
            held.busy[slot_id] = f"{lock.path} is held by {holder}"
    if len(locks) - len(held.busy) < count:
        return held  # To take some, only to give them back, would write to their files for nothing.
    with contextlib.ExitStack() as undo:
        undo.callback(held.release)
        for slot_id, lock in _in_order(locks):
            if len(held.locks) == count:
                break
            if slot_id in held.busy:
                continue
            try:
                held.locks[slot_id] = lock.acquire(0)
            except SlotBusy:
                held.busy[slot_id] = f"{lock.path} is held by {lock.holder()}"
        undo.pop_all()
    return held


def _in_order(locks: Mapping[str, LockFile]) -> list[tuple[str, LockFile]]:
    """All sessions take locks in the order of their paths."""
    return sorted(locks.items(), key=lambda item: str(item[1].path))
