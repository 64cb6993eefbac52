"""One step of a job: a program, run without a shell, its output recorded, nothing of it left running.

A step is over when its program has ended. What it left running in the background is ended then: what a step started
cannot outlive it, so the next step finds the same world each time. Ending is SIGTERM, and SIGKILL after a grace.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pytest_hut.jobs.family import Family, Process, end_with
from pytest_hut.jobs.output import OutputFile
from pytest_hut.jobs.watch import Stop, Watch

KILL_PATIENCE_S = 5.0
"""How long a killed process may take to vanish, e.g. from within a driver, until it is given up."""

KILL_AGAIN_S = 0.05
"""Killing is repeated: a process that forks may have done so after it was looked at."""

PIECE = 64 * 1024
PIECES_IN_A_PIPE = 17
"""More than a pipe can hold."""

NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_BASE = 128


@dataclass(frozen=True)
class StepEnd:
    """How a step ended."""

    exit_code: int | None
    """As a shell tells it; None if its program could not be ended."""
    stop: Stop | None = None
    """Why it had to end, if it did not end by itself."""
    problem: str = ""
    """Why it could not be run."""
    ended: tuple[Process, ...] = ()
    """What was running when the step was over, or had to be."""
    unending: tuple[Process, ...] = ()
    """What of that could not be ended."""


def run_step(
    words: list[str], *, workdir: Path, output: OutputFile, watch: Watch, grace_s: float, lock_fd: int
) -> StepEnd:
    """Run a program and return how it ended. To be called while orphans are adopted.

    Args:
        lock_fd: inherited by the program, so that the job's lock stays taken as long as anything of the job runs, even
            when this process is killed.
    """
    family = Family()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    try:
        process = subprocess.Popen(
            # Bytes, because the locale of this process may not be able to write all words.
            [word.encode() for word in words],
            cwd=workdir,
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
            pass_fds=(lock_fd,),
            preexec_fn=functools.partial(end_with, os.getpid()),
        )
    except OSError as error:
        os.close(read_end)
        if str(error.filename) == str(workdir):  # That of a program is in bytes.
            return StepEnd(NOT_EXECUTABLE, problem=f"the working folder {workdir} cannot be used: {error.strerror}")
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return StepEnd(code, problem=f"{words[0]}: {error.strerror}")
    finally:
        os.close(write_end)
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        os.close(read_end)
        process.kill()
        process.wait()
        raise
    with contextlib.closing(_Supervision(process, handle, family, read_end, output, watch, grace_s)) as supervision:
        return supervision.until_over()


class _Supervision:
    """Looks after a running step."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        handle: int,
        family: Family,
        pipe: int,
        output: OutputFile,
        watch: Watch,
        grace_s: float,
    ) -> None:
        self._process = process
        self._family = family
        self._pipe = pipe
        self._output = output
        self._watch = watch
        self._grace_s = grace_s
        self._handle = handle
        self._leader_ended = False
        self._stop: Stop | None = None
        self._ended: list[Process] = []
        self._living: list[Process] = []
        self._kill_at: float | None = None
        """When to kill, once ending has begun."""
        self._give_up_at: float | None = None
        """When to give up, once killing has begun."""
        self._over = False
        self._look_at: float | None = None
        """When to decide again, even if nothing but output comes."""

    def until_over(self) -> StepEnd:
        """Wait for the end, or bring it about."""
        with selectors.DefaultSelector() as selector:
            for fd in (self._pipe, self._handle, *self._watch.filenos()):
                selector.register(fd, selectors.EVENT_READ)
            self._decide()
            while not self._over:
                left = None if self._look_at is None else max(0.0, self._look_at - time.monotonic())
                ready = {key.fd for key, _ in selector.select(left)}
                if self._pipe in ready and self._copy() == 0:
                    selector.unregister(self._pipe)
                if self._handle in ready:
                    self._leader_ended = True
                    selector.unregister(self._handle)
                if ready != {self._pipe} or (self._look_at is not None and time.monotonic() >= self._look_at):
                    self._decide()
        for _ in range(PIECES_IN_A_PIPE):
            if not self._copy():
                break
        code = self._process.wait() if self._leader_ended else None
        return StepEnd(
            exit_code=code if code is None or code >= 0 else SIGNAL_BASE - code,
            stop=self._stop,
            ended=tuple(self._ended),
            unending=tuple(self._living),
        )

    def close(self) -> None:
        """Let go; whatever went wrong here, nothing is left running."""
        if not self._over:
            self._family.signal(self._process.pid, signal.SIGKILL)
        os.close(self._handle)
        os.close(self._pipe)

    def _decide(self) -> None:
        stop = self._watch.look()
        now = time.monotonic()
        if self._kill_at is None:
            if not self._leader_ended and stop is None:
                left = self._watch.seconds_left()
                self._look_at = None if left is None else now + left
                return
            self._stop = None if self._leader_ended else stop
            self._kill_at = self._look_at = now + self._grace_s
            self._ended = self._family.living(self._process.pid)
            if self._ended:
                self._family.signal(self._process.pid, signal.SIGTERM)
                # One that is stopped would take no notice.
                self._family.signal(self._process.pid, signal.SIGCONT)
        if now >= self._kill_at or self._watch.hurry:
            self._kill_at = now
            self._give_up_at = self._give_up_at or now + KILL_PATIENCE_S
            self._look_at = now + KILL_AGAIN_S
            self._family.signal(self._process.pid, signal.SIGKILL)
        self._living = self._family.living(self._process.pid)
        gave_up = self._give_up_at is not None and now >= self._give_up_at
        self._over = gave_up or (self._leader_ended and not self._living)

    def _copy(self) -> int | None:
        """Move what is in the pipe to the file; return how much: None for nothing now, 0 when no writer is left."""
        try:
            data = os.read(self._pipe, PIECE)
        except BlockingIOError:
            return None
        self._output.take(data)
        return len(data)
