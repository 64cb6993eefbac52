"""Progress of work on a board, shown past pytest's capture: it is for somebody who waits, not for the test."""

from __future__ import annotations

import sys
import time

import pytest

REDRAW_S = 0.2


class TerminalProgress:
    """One line a step; on a terminal, and without xdist, a percentage that moves."""

    def __init__(self, config: pytest.Config, slot_id: str) -> None:
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._slot_id = slot_id
        self._moves = not hasattr(config, "workerinput") and sys.__stderr__ is not None and sys.__stderr__.isatty()
        self._drawn_at = 0.0

    def line(self, text: str) -> None:
        """Print a line of its own."""
        self._print(f"{self._slot_id}: {text}\n")

    def bar(self, text: str, done: int, total: int) -> None:
        """Redraw the line of the current step, a few times a second."""
        now = time.monotonic()
        if self._moves and (now - self._drawn_at >= REDRAW_S or done == total):
            self._drawn_at = now
            self._print(f"\r{self._slot_id}: {text} {100 * done // max(total, 1)} %" + ("\n" if done == total else ""))

    def _print(self, text: str) -> None:
        if self._capture is None:
            sys.stderr.write(text)
            return
        with self._capture.global_and_fixture_disabled():
            sys.stderr.write(text)
            sys.stderr.flush()
