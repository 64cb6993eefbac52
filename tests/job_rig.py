"""Jobs for tests: invocations, steps that say when they are there, and what is left of a step's processes."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pytest_hut.contracts.invocation import Invocation
from pytest_hut.jobs.runner import FinishedJob, RunOptions, run_job
from pytest_hut.jobs.signals import StopSignals

PATIENCE_S = 15.0

SELF = sys.executable
"""The program of steps that are written in Python."""

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [str(os.getpid())]
def child(escape):
    read, write = os.pipe()
    if os.fork() == 0:
        if escape:
            os.setsid()
            if os.fork():
                os._exit(0)
        os.write(write, str(os.getpid()).encode() + b" ")
        while True:
            signal.pause()
    return os.read(read, 100).decode().split()[0]
pids += [child(False), child(True)]
open(sys.argv[1], "w").write(" ".join(pids) + "\\n")
signal.pause()
"""
"""Ignores SIGTERM, as do its children, one in its group and one that left group and session; tells their numbers."""


LEAVES_CHILDREN = """
import os, signal
for kind in ("plain", "escaped", "stubborn"):
    read, write = os.pipe()
    if os.fork() == 0:
        if kind == "escaped":
            os.setsid()
            if os.fork():
                os._exit(0)
        if kind == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("/proc/self/comm", "w").write(f"we ) {kind} (")
        os.write(write, b"%d" % os.getpid())
        while True:
            signal.pause()
    print(os.read(read, 100).decode())
"""
"""Ends at once, and leaves three children of odd names behind; tells their numbers."""

OBEDIENT = """
import signal, sys
def end(number, frame):
    print("restored")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    signal.pause()
"""
"""Ends in order when it gets SIGTERM."""


def utc(seconds_from_now: float = 0.0) -> str:
    """Return a UTC time as the contract writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds_from_now)).strftime("%Y-%m-%dT%H:%M:%SZ")


def document(command: list[Any], **changes: Any) -> dict[str, Any]:
    """Return an invocation as a JSON document."""
    made = {
        "schema_version": "ws2.invocation.v1",
        "job_id": "JOB-1",
        "target_role": "runner",
        "requested_by": "arch",
        "request_utc": utc(),
        "command": command,
        "timeout_sec": 60,
        "lock_key": "key",
    }
    return {**made, **changes}


class Runner:
    """Runs jobs in this process, with locks and flags in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.workdir = folder / "work"
        self.shared = folder / "shared"
        self.told: list[str] = []
        self.workdir.mkdir()
        self.shared.mkdir()

    def run(self, *command: str | list[str], options: dict[str, Any] | None = None, **changes: Any) -> FinishedJob:
        """Run a job to its end."""
        invocation = Invocation.model_validate_json(
            json.dumps(document(list(command), **{"workdir": str(self.workdir), **changes}))
        )
        with StopSignals() as signals:
            return run_job(invocation, self.options(**(options or {})), signals)

    def options(self, **changes: Any) -> RunOptions:
        """Return options for this folder."""
        return RunOptions(
            **{
                "lock_wait_s": PATIENCE_S,
                "grace_s": PATIENCE_S,
                "shared_folder": self.shared,
                "tell": self.told.append,
                **changes,
            }
        )

    def outputs(self) -> list[str]:
        """Return what the steps of all jobs printed, in order."""
        return [path.read_text() for path in sorted(self.workdir.glob("build/hut/*/*_job_step*.log"))]


@contextmanager
def when_told(fifo: Path, act: Callable[[], object]) -> Iterator[None]:
    """While inside, `act` once somebody has written a line to `fifo`."""
    os.mkfifo(fifo)

    def wait() -> None:
        with fifo.open() as file:
            if file.readline():
                act()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        # Lets the thread go if nobody ever wrote.
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def tells(fifo: Path, then: str = "exec sleep 1000") -> list[str]:
    """Return a step that writes a line to `fifo` and goes on with `then`."""
    return ["sh", "-c", f"echo up > '{fifo}'; {then}"]


def ends_soon(pid: int | str) -> bool:
    """Wait until a process has ended, and return whether it has."""
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE_S)[0])
    finally:
        os.close(descriptor)


def is_there(pid: int | str) -> bool:
    """Whether there is such a process, other than as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
