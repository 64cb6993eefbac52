"""Progress on standard error: a bar that moves on a terminal, one line a step elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_hut.board.progress import Progress

if TYPE_CHECKING:
    import rich.progress


@contextlib.contextmanager
def shown_progress(slot_id: str) -> Iterator[Progress]:
    """Show the progress of one slot in the way that suits standard error while inside."""
    with shown_progresses([slot_id]) as shown:
        yield shown[slot_id]


@contextlib.contextmanager
def shown_progresses(slot_ids: Sequence[str]) -> Iterator[Mapping[str, Progress]]:
    """Show the progress of several slots while inside: on a terminal, a bar for each that has something to do."""
    if not sys.stderr.isatty():
        yield {slot_id: LineProgress(slot_id) for slot_id in slot_ids}
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    names = [TextColumn("{task.fields[slot_id]}", markup=False)] if len(slot_ids) > 1 else []
    columns = (*names, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=console, transient=True)
    bars.start()
    try:
        yield {slot_id: BarProgress(slot_id, bars) for slot_id in slot_ids}
    finally:
        with contextlib.suppress(OSError):  # A terminal that hung up: that it did is what is told, not this.
            bars.stop()


class LineProgress:
    """One line a step."""

    def __init__(self, slot_id: str) -> None:
        self._slot_id = slot_id

    def line(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{self._slot_id}: {text}\n")

    def bar(self, text: str, done: int, total: int) -> None:
        """Nothing: the line that began the step says enough."""


class BarProgress:
    """Lines, and below them a bar for the step that is going on."""

    def __init__(self, slot_id: str, bars: rich.progress.Progress) -> None:
        self._slot_id = slot_id
        self._bars = bars
        self._task: rich.progress.TaskID | None = None

    def line(self, text: str) -> None:
        """Print a line; a bar that was there belonged to the step before."""
        self._drop_bar()
        self._bars.console.print(f"{self._slot_id}: {text}", soft_wrap=True)

    def bar(self, text: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bars.add_task(text, total=total, slot_id=self._slot_id)
        self._bars.update(self._task, completed=done, total=total)
        if done >= total:
            self._drop_bar()

    def _drop_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
