"""The same work on many slots at once: a process for each, forked when everything is loaded and shared by all.

Each child is what a command on one slot is: a main thread that signals can interrupt, its own lock, its own end. What
one of them does to itself, down to a crash of the interpreter, is no other's trouble. No child ever waits for a lock
while it holds another one's, so that commands on overlapping slots cannot wait for each other in a circle.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from pytest_hut.bench.models import Slot
from pytest_hut.board.progress import Progress, Silent
from pytest_hut.cli.exits import INFRASTRUCTURE, OK, exit_code_of, in_one_line
from pytest_hut.errors import HutError
from pytest_hut.power.signals import ENDING, ending_held_back

BAR_EVERY_S = 0.1

_fork = multiprocessing.get_context("fork")

Work = Callable[[Slot, Progress], str]
"""What is done on one slot; returns a line for people. Raises HutError, OSError, KeyboardInterrupt."""


@dataclass(frozen=True)
class Outcome:
    """How the work on one slot ended."""

    slot_id: str
    code: int
    """See `exits`."""
    text: str
    """What the work returned, or one line that says what went wrong."""


Ended = Callable[[Outcome, Progress], None]
"""Is told how the work on a slot ended, as soon as it did, and where that slot's progress is shown."""


def on_each(
    slots: Sequence[Slot], work: Work, display: contextlib.AbstractContextManager[Mapping[str, Progress]], ended: Ended
) -> list[Outcome]:
    """Do `work` on all slots at once and return how each ended, in the order of `slots`.

    Call it from a process with one thread; `display`, which may need threads, is entered when all children are there.
    KeyboardInterrupt is passed on to the children, and raised again when the last of them has put its board and its
    lock in order.
    """
    children = _Children(work, ended)
    try:
        try:
            for slot in sorted(slots, key=lambda slot: str(slot.lock)):
                children.start(slot)
            with display as shown:
                children.listen(shown)
        except BaseException:
            with ending_held_back():
                children.end()
                children.listen({slot.id: Silent() for slot in slots})
            raise
    finally:
        children.close()
    return [children.outcomes[slot.id] for slot in slots]


class _Children:
    def __init__(self, work: Work, ended: Ended) -> None:
        self._work = work
        self._ended = ended
        self._running: dict[Connection, tuple[str, BaseProcess]] = {}
        self._life_line = os.pipe()
        """Nothing is ever written: its end tells the children that this process is gone."""
        self.outcomes: dict[str, Outcome] = {}

    def start(self, slot: Slot) -> None:
        """Begin with one slot."""
        here, there = _fork.Pipe(duplex=False)
        # A signal that came in between would end the child as if it were this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            inherited = [here, *self._running]
            process = _fork.Process(target=self._be_child, args=(slot, there, inherited, before), name=slot.id)
            process.start()
            self._running[here] = (slot.id, process)
        finally:
            there.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def listen(self, shown: Mapping[str, Progress]) -> None:
        """Show what the children tell, until all have ended."""
        while self._running:
            for pipe in wait(list(self._running)):
                assert isinstance(pipe, Connection)
                with ending_held_back():  # Half a message must not be left in the pipe.
                    self._take_news(pipe, shown)

    def _take_news(self, pipe: Connection, shown: Mapping[str, Progress]) -> None:
        slot_id, process = self._running[pipe]
        try:
            news = pipe.recv()
        except EOFError:
            process.join()
            del self._running[pipe]
            pipe.close()
            if slot_id in self.outcomes:
                return
            why = f"its process ended without a result (exit code {process.exitcode})"
            news = Outcome(slot_id, INFRASTRUCTURE, why)
        if isinstance(news, Outcome):
            self.outcomes[slot_id] = news
            self._ended(news, shown[slot_id])
        else:
            method, arguments = news
            getattr(shown[slot_id], method)(*arguments)

    def end(self) -> None:
        """Ask all that still run to end."""
        for _, process in self._running.values():
            process.terminate()

    def close(self) -> None:
        """Cut the life line."""
        for end in self._life_line:
            os.close(end)

    def _be_child(self, slot: Slot, told: Connection, inherited: list[Connection], mask: set[signal.Signals]) -> None:
        try:
            # A terminal sends these to every process of the command; the first one passes them on, once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _interrupt_once)
            for pipe in inherited:
                pipe.close()
            os.close(self._life_line[1])
            threading.Thread(target=_end_with, args=(self._life_line[0],), name="hut-life-line", daemon=True).start()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            outcome = Outcome(slot.id, OK, self._work(slot, _PipedProgress(told)))
        except (HutError, OSError, KeyboardInterrupt) as error:
            outcome = Outcome(slot.id, exit_code_of(error), in_one_line(error))
        _send(told, outcome)


def _interrupt_once(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def _end_with(life_line: int) -> None:
    os.read(life_line, 1)
    os.kill(os.getpid(), signal.SIGTERM)


class _PipedProgress:
    """Tells the first process what to show."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._bar_at = float("-inf")

    def line(self, text: str) -> None:
        """Show a line."""
        self._tell("line", text)

    def bar(self, text: str, done: int, total: int) -> None:
        """Move the bar, not more often than anybody can see."""
        now = time.monotonic()
        if done >= total or now - self._bar_at >= BAR_EVERY_S:
            self._bar_at = now
            self._tell("bar", text, done, total)

    def _tell(self, method: str, *arguments: Any) -> None:
        _send(self._pipe, (method, arguments))


def _send(pipe: Connection, news: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # Whoever would show it is gone, and the life line with him.
        pipe.send(news)
