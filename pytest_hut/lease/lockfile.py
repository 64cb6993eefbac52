"""A lock that is the kernel's: flock(2) on a file that many users and the `flock` command share.

The file is never deleted and never followed through a symlink. Its text (who, which job, since when) is for people
and may be stale; only the lock itself counts.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import lock_descriptor, unlock_descriptor

from pytest_hut.errors import InfrastructureError, SlotBusy
from pytest_hut.host import user_name

POLL_S = 0.05
"""The kernel has no flock with a time-out, so waiting means asking again."""

REMIND_EVERY_S = 30.0

SHARED_MODE = 0o666
"""Every user of the host may take the lock, so every user may open the file."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as far as can be told."""

    pid: int | None = None
    user: str | None = None
    host: str | None = None
    job: str | None = None
    since_utc: str | None = None
    program: str | None = None

    def __str__(self) -> str:
        words = [f"pid {self.pid}" if self.pid else "an unknown process"]
        if self.program:
            words.append(f"({self.program})")
        if self.user:
            words.append(f"of user {self.user}")
        if self.job:
            words.append(f"for job {self.job}")
        if self.since_utc:
            words.append(f"since {self.since_utc}")
        return " ".join(words)


class LockFile:
    """One lock file; `acquire` and `release`, or a with statement around `acquire`.

    The lock belongs to the open descriptor and dies with its last owner, however that ends.
    """

    def __init__(
        self, path: Path, job: str | None = None, on_written: Callable[[int, int], None] | None = None
    ) -> None:
        """`on_written` is told, while the lock is held, that taking it or giving it back wrote to the file.

        It gets the times of the last write (nanoseconds since the epoch) before and after: who knows the one from
        before, and hears of each, knows that nobody else took the lock in between.
        """
        self.path = path
        self._job = job
        self._on_written = on_written
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def fileno(self) -> int:
        """Return the descriptor that carries the lock, e.g. to hand it on to a child. Raises ValueError if not held."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not held")
        return self._fd

    def acquire(self, timeout_s: float, on_wait: Callable[[str], None] | None = None) -> LockFile:
        """Take the lock, waiting up to `timeout_s` seconds; `on_wait` is told who holds it, at once and now and then.

        Raises:
            SlotBusy: somebody else still holds it when the time is over.
            InfrastructureError: the path cannot be a lock file (a symlink, a folder, not permitted).
        """
        start = time.monotonic()
        remind_at = start
        while True:
            fd = _open_lock_file(self.path)
            try:
                while not lock_descriptor(fd, blocking=False):
                    now = time.monotonic()
                    if now - start >= timeout_s:
                        raise SlotBusy(
                            f"{self.path} is held by {self.holder()}; gave up after {timeout_s:g} s "
                            "(wait longer with --hut-lock-timeout, or ask the holder)"
                        )
                    if on_wait is not None and now >= remind_at:
                        on_wait(f"waiting for {self.path}, held by {self.holder()}")
                        remind_at = now + REMIND_EVERY_S
                    time.sleep(min(POLL_S, max(0.0, start + timeout_s - now)))
            except BaseException:
                os.close(fd)
                raise
            if _is_still(self.path, fd):
                break
            os.close(fd)  # Somebody deleted or replaced the file meanwhile: this lock would exclude nobody.
        self._fd = fd
        try:
            self._write_holder()
        except BaseException:
            self.release()
            raise
        return self

    def release(self) -> None:
        """Give the lock back. Safe to call when it is not held."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            self._write(fd, "")
        finally:
            unlock_descriptor(fd)
            os.close(fd)

    def holder(self) -> Holder | None:
        """Return who holds the lock now, or None if nobody does or the file is missing."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if self._fd is None and lock_descriptor(fd, blocking=False):
                unlock_descriptor(fd)
                return None
            text = os.pread(fd, 4096, 0)
            pid = locking_pid(os.fstat(fd))
        finally:
            os.close(fd)
        return _holder_from(text, pid)

    def _write_holder(self) -> None:
        holder = Holder(
            pid=os.getpid(),
            user=user_name(),
            host=socket.gethostname(),
            job=self._job,
            since_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        text = json.dumps({key: value for key, value in asdict(holder).items() if value is not None})
        self._write(self.fileno(), text + "\n")

    def _write(self, fd: int, text: str) -> None:
        before = os.fstat(fd).st_mtime_ns
        _replace_text(fd, text)
        if self._on_written is not None:
            self._on_written(before, os.fstat(fd).st_mtime_ns)

    def __enter__(self) -> LockFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _open_lock_file(path: Path) -> int:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    # Without O_CREAT first: in a sticky folder fs.protected_regular forbids O_CREAT on another user's file.
    for attempt in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR, os.O_RDONLY):
        try:
            fd = os.open(path, flags | attempt, SHARED_MODE)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS):
                last = error
                continue
            if error.errno == errno.ELOOP:
                raise InfrastructureError(
                    f"{path} is a symbolic link, which a lock file must not be; remove it"
                ) from None
            raise InfrastructureError(f"{path} cannot be opened as a lock file: {error.strerror}") from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(fd)
            # With a second name it could be somebody's precious file, and its text would be replaced.
            what = "a file with more than one name" if stat.S_ISREG(found.st_mode) else "not a regular file"
            raise InfrastructureError(f"{path} is {what}, which a lock file must not be; remove it")
        if attempt & os.O_CREAT:
            os.fchmod(fd, SHARED_MODE)  # The umask must not lock other users out.
        return fd
    raise InfrastructureError(
        f"{path} cannot be opened as a lock file: {last.strerror}; give this user access, or set lock_path of the slot"
    ) from None


def _is_still(path: Path, fd: int) -> bool:
    try:
        there = path.lstat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _replace_text(fd: int, text: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    except OSError:
        return  # A file of another user, opened read-only, or a full disk: the text is only a courtesy.


def locking_pid(there: os.stat_result) -> int | None:
    """Return who took the lock of a file, as the kernel's table says; the lock may have outlived that process."""
    identity = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        # A waiter's line has an extra `->`; only the holder's counts.
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == identity:
            return int(words[4])
    return None


def _holder_from(text: bytes, pid: int | None) -> Holder:
    try:
        data: Any = json.loads(text.decode())
    except ValueError:
        data = None
    if isinstance(data, dict):
        known = {key: data[key] for key in Holder.__dataclass_fields__ if isinstance(data.get(key), (str, int))}
        if pid is None or known.get("pid") == pid:
            return Holder(**known)
    if pid is None or pid < 0:
        return Holder()
    program, user = None, None
    try:
        # Only the program's name: a command line can carry what should not be shown.
        program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        user = Path(f"/proc/{pid}").owner()
    except (OSError, KeyError):
        pass
    return Holder(pid=pid, user=user, program=program)
