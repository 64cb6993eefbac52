"""A lock that an ancestor of this process holds, for a command that is run by whoever holds a slot.

Such a command must not lock again, because it would wait for its own ancestor, which waits for it. It acts under that
lock; all who act so on one slot take turns by a second lock beside the first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_hut.lease.lockfile import LockFile, locking_pid


@contextlib.contextmanager
def taken_or_lent(
    path: Path, job: str, timeout_s: float, on_wait: Callable[[str], None] | None = None
) -> Iterator[float | None]:
    """Hold the lock at `path`, or act under that of an ancestor.

    Yields how many seconds the lock was waited for, or None if it is an ancestor's.

    Raises:
        SlotBusy: somebody else holds it, or acts under the same ancestor, for longer than `timeout_s` seconds.
        InfrastructureError: the path cannot be a lock file.
    """
    lent = ancestor_with_lock(path) is not None
    start = time.monotonic()
    with LockFile(_turns(path) if lent else path, job).acquire(timeout_s, on_wait):
        yield None if lent else time.monotonic() - start


def ancestor_with_lock(path: Path) -> int | None:
    """Return the nearest process among this one and its ancestors that carries the lock at `path`, None if none does.

    A lock belongs to an open file, which children may inherit, so this one can carry it after its taker ended.
    """
    try:
        there = path.lstat()
    except OSError:
        return None
    return next((pid for pid in _lineage() if _carries_lock(pid, there)), None)


def _turns(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".lock") + ".lent.lock")


def _lineage() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            # Behind the last bracket, because a program's name may contain anything: state, then the parent.
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            return


def _carries_lock(pid: int, there: os.stat_result) -> bool:
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # Of another user: what is left to see is who took the lock.
        return locking_pid(there) == pid
    for descriptor in descriptors:
        try:
            if not os.path.samestat(descriptor.stat(), there):
                continue
            # The kernel shows a lock at the open file that carries it, and at no other of the same path.
            info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text(encoding="ascii")
        except OSError:  # Closed meanwhile.
            continue
        if any(line.startswith("lock:") and "FLOCK" in line for line in info.splitlines()):
            return True
    return False
