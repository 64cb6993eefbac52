"""How long-running work on a board tells somebody who waits that it goes on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what happens while it happens."""

    def line(self, text: str) -> None:
        """A step began or ended."""

    def bar(self, text: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the current step are through; called often."""


class Silent:
    """Nobody waits."""

    def line(self, text: str) -> None:
        """Do nothing."""

    def bar(self, text: str, done: int, total: int) -> None:
        """Do nothing."""
