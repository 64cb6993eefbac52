"""Signals that end a process must not end the way back on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_held_back() -> Iterator[None]:
    """While inside, SIGINT, SIGTERM and SIGHUP wait; afterwards each that came is delivered once.

    Ctrl-C pressed twice, or Ctrl-C in a terminal and SIGTERM from the session's controller, would otherwise interrupt
    what the first of them began. Outside the main thread, where signals do not arrive, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: set[int] = set()

    def note(number: int, _frame: FrameType | None) -> None:
        came.add(number)

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler if handler is not None else signal.SIG_DFL)
        for number in sorted(came):
            os.kill(os.getpid(), number)
