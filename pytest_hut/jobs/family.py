"""All processes that a step started, also those that left its process group or session.

While orphans are adopted (PR_SET_CHILD_SUBREAPER), a process whose parent ended becomes a child of this one instead of
init's, so everything a step started stays below us, whatever it does with groups and sessions. What another service
started for it (systemd, docker, at) is not below us, and not ours to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37

_DEAD = "ZX"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """A process as the kernel tells it apart: a number is used again, but not with the same start time."""

    pid: int
    start_ticks: int
    parent: int
    group: int
    state: str
    program: str

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """While inside, orphaned descendants become children of this process. Raises OSError."""
    before = ctypes.c_int()
    if _libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) or _libc.prctl(
        PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"orphans cannot be adopted: {os.strerror(number)}")
    try:
        yield
    finally:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def end_with(parent: int) -> None:
    """To be called in a new process: from now on it gets SIGTERM when its parent ends, even if that is killed.

    Its own children do not, so this only softens what nobody can prevent.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # It has ended already.
        os.kill(os.getpid(), signal.SIGTERM)


class Family:
    """The descendants of this process that were not there when this object was made."""

    def __init__(self) -> None:
        self._strangers = {(child.pid, child.start_ticks) for child in _children_of(os.getpid(), _all_processes())}

    def living(self, leader: int) -> list[Process]:
        """Return those that live, and reap those of our children that do not, but for `leader`.

        The leader is left unreaped, so that neither its number nor that of its group can become anybody else's.
        """
        everybody = _all_processes()
        found: list[Process] = []
        generation = [
            child
            for child in _children_of(os.getpid(), everybody)
            if (child.pid, child.start_ticks) not in self._strangers
        ]
        # A zombie may still have living threads; of our own children the kernel tells for sure.
        living = [child for child in generation if not _has_ended(child.pid, leader)]
        while generation:
            found += living
            generation = [child for parent in generation for child in _children_of(parent.pid, everybody)]
            living = [child for child in generation if child.state not in _DEAD]
        return found

    def signal(self, leader: int, number: int) -> list[Process]:
        """Send a signal to all that live, the group of `leader` as one; return them."""
        # To the group at once: so none of it can escape by forking meanwhile.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)
        everybody = self.living(leader)
        for process in everybody:
            if process.group != leader:
                _send(process, number)
        return everybody


def _send(process: Process, number: int) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return  # It is gone.
    try:
        # The handle may be of a newer process with that number, unless the start time is the same.
        now = _read_process(process.pid)
        if now is not None and now.start_ticks == process.start_ticks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _has_ended(child: int, leader: int) -> bool:
    try:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        if child != leader:
            os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        pass  # Reaped already, or it was never our child.
    return True


def _children_of(parent: int, everybody: list[Process]) -> list[Process]:
    return [process for process in everybody if process.parent == parent]


def _all_processes() -> list[Process]:
    found = (_read_process(int(name)) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    return [process for process in found if process is not None]


def _read_process(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None  # It has gone meanwhile.
    # The program's name is in parentheses, and may contain some, and blanks.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        start_ticks=int(fields[19]),
        program=head.partition("(")[2],
    )
