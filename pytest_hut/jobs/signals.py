"""Signals that ask a job to end, as something that can be waited for together with other events."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """While inside, the stop signals interrupt nothing: they are remembered, and `fileno` becomes readable.

    It becomes readable also when a child has ended (SIGCHLD). Only for the main thread, because only that gets signals.
    """

    def __init__(self) -> None:
        self.received: list[str] = []
        """Names of the stop signals that came, in order."""
        self._ends = contextlib.ExitStack()
        self._read, self._write = -1, -1

    def __enter__(self) -> StopSignals:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ends.callback(os.close, self._read)
        self._ends.callback(os.close, self._write)
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._ends.callback(signal.set_wakeup_fd, before)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup wants it.
                self._ends.callback(signal.signal, number, signal.signal(number, self._remember))
        # Without a handler in Python a signal does not write to the pipe.
        self._ends.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, self._wake))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ends.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal came."""
        return self._read

    def drain(self) -> None:
        """Make `fileno` unreadable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number).name)

    def _wake(self, _number: int, _frame: FrameType | None) -> None:
        pass
