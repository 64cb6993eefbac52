"""Prove on this host that slot locks do what the bench relies on: with real processes, on real files, measured.

Every holder is a process of its own, and no check waits for a time to pass: a process says when it has to wait, when it
has the lock, and when it gave it back, on the monotonic clock that all processes of a host share.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pytest_hut.errors import InfrastructureError, SlotBusy
from pytest_hut.lease.lockfile import LockFile

START_S = 20.0
"""How long a process may take to begin, and to end once it was told to."""

BUSY_CODE = 75
"""What a holder ends with that did not get the lock in time."""


@dataclass(frozen=True)
class LockCheck:
    """What one check showed."""

    what: str
    ok: bool
    measured: str


def run_lock_checks(first: Path, second: Path, wait_s: float) -> Iterator[LockCheck]:
    """Check two lock files, which may be those of slots: each holder waits like everybody else.

    Args:
        first: the lock on which holders meet.
        second: the lock of another slot.
        wait_s: how many seconds a holder may wait for others; never less than they need among themselves.

    Raises:
        SlotBusy: others held a lock for longer than that.
        InfrastructureError: a lock file cannot be used.
    """
    wait_s = max(wait_s, START_S)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("two holders of one slot run one after the other", lambda: _serialize(first, wait_s)),
        ("holders of two slots run at the same time", lambda: _overlap(first, second, wait_s)),
        ("the flock command is kept out by hut", lambda: _hut_keeps_flock_out(first, wait_s)),
        ("hut is kept out by the flock command", lambda: _flock_keeps_hut_out(first, wait_s)),
        ("kill -9 of a holder frees its slot", lambda: _kill_frees(first, wait_s)),
    ]
    for what, check in checks:
        try:
            yield LockCheck(what, True, check())
        except _NotSo as error:
            yield LockCheck(what, False, str(error))


class _NotSo(Exception):
    """The check showed the opposite."""


def _serialize(path: Path, wait_s: float) -> str:
    with _holder(path, wait_s) as one:
        one_had = one.wait_for("held", wait_s)
        with _holder(path, wait_s) as two:
            two.wait_until_it_waits()
            gave_back = one.give_back()
            two_had = two.wait_for("held", wait_s)
            two_gave_back = two.give_back()
    _require(two_had >= gave_back, f"the second had the lock {_ms(gave_back - two_had)} before the first gave it back")
    return (
        f"pid {one.pid} had it for {_ms(gave_back - one_had)}, pid {two.pid} got it {_ms(two_had - gave_back)} later "
        f"and had it for {_ms(two_gave_back - two_had)}: no overlap"
    )


def _overlap(first: Path, second: Path, wait_s: float) -> str:
    with _holder(first, wait_s) as one:
        one_had = one.wait_for("held", wait_s)
        with _holder(second, wait_s) as two:
            try:
                two_had = two.wait_for("held", wait_s)
            except SlotBusy:
                holder = LockFile(second).holder()
                _require(holder is None or holder.pid != one.pid, f"{first} and {second} are one lock")
                raise
            overlap_s = min(one.give_back(), two.give_back()) - max(one_had, two_had)
    _require(overlap_s > 0, "they did not overlap")
    return f"pid {one.pid} and pid {two.pid} held theirs together for {_ms(overlap_s)}"


def _hut_keeps_flock_out(path: Path, wait_s: float) -> str:
    with _holder(path, wait_s) as one:
        one.wait_for("held", wait_s)
        refused = subprocess.run([_flock_command(), "-n", str(path), "true"], stdin=subprocess.DEVNULL, check=False)
        _require(refused.returncode == 1, f"`flock -n` ended with {refused.returncode} while hut held the lock")
        with _flock(path) as script:
            gave_back = one.give_back()
            had = script.wait_for("held", wait_s)
    _require(had >= gave_back, f"`flock` had the lock {_ms(gave_back - had)} before hut gave it back")
    return (
        f"`flock -n` was refused while pid {one.pid} held it; `flock` got it {_ms(had - gave_back)} after it was free"
    )


def _flock_keeps_hut_out(path: Path, wait_s: float) -> str:
    with _flock(path) as script:
        script.wait_for("held", wait_s)
        with _holder(path, wait_s) as one:
            one.wait_until_it_waits()
            told = time.monotonic()
            script.finish()
            had = one.wait_for("held", wait_s)
            one.give_back()
    _require(had >= told, f"hut had the lock {_ms(told - had)} before `flock` was told to end")
    return f"pid {one.pid} waited while `flock` held it, and got it {_ms(had - told)} after that was told to end"


def _kill_frees(path: Path, wait_s: float) -> str:
    with _holder(path, wait_s) as one:
        one.wait_for("held", wait_s)
        with _holder(path, wait_s) as two:
            two.wait_until_it_waits()
            killed = time.monotonic()
            one.kill()
            had = two.wait_for("held", wait_s)
            two.give_back()
    _require(had >= killed, f"the next had the lock {_ms(killed - had)} before the kill")
    return f"pid {one.pid} was killed with SIGKILL, pid {two.pid} had the lock {_ms(had - killed)} later"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"


def _require(held: bool, otherwise: str) -> None:
    if not held:
        raise _NotSo(otherwise)


class _Process:
    """A process that tells what it does in lines, and ends what it does when its standard input ends."""

    def __init__(self, command: list[str]) -> None:
        # In a session of its own, so that Ctrl-C is ours alone; it ends with us, since its input does.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._seen = bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, word: str, within_s: float) -> float:
        """Return the time in seconds that a line beginning with `word` has, 0 if it has none."""
        while True:
            line = self._next_line(within_s + START_S, word)
            first, _, value = line.partition(" ")
            if first == word:
                return float(value or 0)

    def wait_until_it_waits(self) -> None:
        """Return once it found the lock taken. Raises _NotSo if it got it."""
        line = self._next_line(START_S, "waiting")
        _require(line == "waiting", f"pid {self.pid} got a lock that somebody else held")

    def give_back(self) -> float:
        """Let go of the lock, and return when that was."""
        self._close_input()
        at = self.wait_for("released", 0)
        self._process.wait(START_S)
        return at

    def finish(self) -> None:
        """Tell it to end, and wait until it has."""
        self._close_input()
        self._process.wait(START_S)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(START_S)

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(START_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _next_line(self, within_s: float, wanted: str) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._seen:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise _NotSo(f"pid {self.pid} did not say {wanted!r} within {within_s:g} s")
            piece = os.read(self._process.stdout.fileno(), 4096)
            if not piece:
                self._raise_for_its_end(wanted)
            self._seen += piece
        line, _, self._seen = self._seen.partition(b"\n")
        text = line.decode(errors="replace")
        if text.startswith(("busy ", "unusable ")):
            raise (SlotBusy if text.startswith("busy ") else InfrastructureError)(text.partition(" ")[2])
        return text

    def _raise_for_its_end(self, wanted: str) -> None:
        code = self._process.wait(START_S)
        raise _NotSo(f"pid {self.pid} ended with {code} before it said {wanted!r}")


def _holder(path: Path, wait_s: float) -> _Process:
    return _Process([sys.executable, "-P", "-m", "pytest_hut.lease.selftest", str(path), str(wait_s)])


def _flock(path: Path) -> _Process:
    tell = "import sys, time; print('held', time.monotonic(), flush=True); sys.stdin.read()"
    return _Process([_flock_command(), str(path), sys.executable, "-c", tell])


def _flock_command() -> str:
    command = shutil.which("flock")
    if command is None:
        raise _NotSo("there is no flock command on this host (install util-linux), so this is not known")
    return command


def _hold(path: Path, wait_s: float) -> int:
    """Be a holder: take the lock, keep it until standard input ends, give it back; tell about it on standard output."""

    def tell(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    told_to_wait: list[str] = []

    def waiting(text: str) -> None:
        if not told_to_wait:
            told_to_wait.append(text)
            tell("waiting")

    lock = LockFile(path, "lock self-test")
    try:
        lock.acquire(wait_s, waiting)
    except SlotBusy as error:
        tell(f"busy {error}")
        return BUSY_CODE
    except InfrastructureError as error:
        tell(f"unusable {error}")
        return BUSY_CODE
    tell(f"held {time.monotonic()!r}")
    sys.stdin.read()
    # Taken before it is free, so that nobody can have had it earlier than this.
    at = time.monotonic()
    lock.release()
    tell(f"released {at!r}")
    return 0


if __name__ == "__main__":
    sys.exit(_hold(Path(sys.argv[1]), float(sys.argv[2])))
