"""Everything that may ask a job to end before its steps are done: a signal, the cancel flag, the time limit."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from inotify_simple import INotify, flags

from pytest_hut.errors import InfrastructureError
from pytest_hut.jobs.cancel import CancelFlag
from pytest_hut.jobs.signals import StopSignals

_CHANGES = flags.CREATE | flags.MOVED_TO | flags.ATTRIB


@dataclass(frozen=True)
class Stop:
    """Why a job has to end."""

    kind: Literal["signal", "flag", "timeout"]
    reason: str
    """A phrase that goes on from "cancelled by" or "stopped because of"."""


class Watch:
    """Watches from `with` on; the first reason to stop stays the reason."""

    def __init__(self, flag: CancelFlag, signals: StopSignals) -> None:
        self.stop: Stop | None = None
        self.flag = flag
        self._signals = signals
        self._deadline: float | None = None
        self._limit_s = 0.0
        self._folder: INotify

    def __enter__(self) -> Watch:
        folder: Path = self.flag.path.parent
        try:
            self._folder = INotify()
            self._folder.add_watch(folder, _CHANGES)
        except OSError as error:
            raise InfrastructureError(f"{folder} cannot be watched for the cancel flag ({error.strerror})") from None
        self._see_flag()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.close()

    def limit(self, seconds: float) -> None:
        """Let the time limit begin now."""
        self._limit_s = seconds
        self._deadline = time.monotonic() + seconds

    @property
    def hurry(self) -> bool:
        """Whether somebody asked twice."""
        return len(self._signals.received) > 1

    def filenos(self) -> tuple[int, int]:
        """Return the descriptors that become readable when `look` may have news, or a child has ended."""
        return self._signals.fileno(), self._folder.fileno()

    def seconds_left(self) -> float | None:
        """Return the time until the limit, None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def look(self) -> Stop | None:
        """Return the reason to stop, if there is one by now. Does not wait."""
        self._signals.drain()
        if self._folder.read(timeout=0):
            self._see_flag()
        if self._signals.received:
            self._stop("signal", self._signals.received[0])
        if self.seconds_left() == 0.0:
            self._stop("timeout", f"the time limit of {self._limit_s:.12g} s")
        return self.stop

    def wait(self, seconds: float) -> Stop | None:
        """Wait until there is a reason to stop, at most so long, and return it."""
        end = time.monotonic() + seconds
        while not self.look():
            left = end - time.monotonic()
            if left <= 0:
                return None
            limit = self.seconds_left()
            select.select(self.filenos(), (), (), left if limit is None else min(left, limit))
        return self.stop

    def _see_flag(self) -> None:
        raised = self.flag.raised()
        if raised:
            self._stop("flag", f"the flag {raised}")

    def _stop(self, kind: Literal["signal", "flag", "timeout"], reason: str) -> None:
        self.stop = self.stop or Stop(kind, reason)
