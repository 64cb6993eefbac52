"""`hut monitor`: a board's console on this terminal, for as long as one likes."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import os
import queue
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_hut.board.console import Console
from pytest_hut.cli.choice import the_slot
from pytest_hut.cli.exits import OK
from pytest_hut.cli.holding import held_slot
from pytest_hut.cli.keyboard import keys_to
from pytest_hut.cli.progress import LineProgress
from pytest_hut.errors import ConfigError, PortError
from pytest_hut.events.journal import Journal
from pytest_hut.events.types import Event, PortLost, PortReturned, utc_now

END_KEY = b"\x1d"
"""Ctrl-], as in pyserial's miniterm and telnet."""

Item = bytes | str | None
"""What the board printed, a remark about it, or the end. Put by any thread, shown by the main one."""
Items = queue.SimpleQueue[Item]


def run(options: argparse.Namespace) -> int:
    """Show the console until Ctrl-], SIGINT, SIGTERM, or the end of the time. Raises HutError."""
    bench, slot = the_slot(options.slot, options.config, virtual=options.virtual)
    items: Items = queue.SimpleQueue()
    typing = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not options.no_input
    with (
        tempfile.TemporaryDirectory(prefix="hut-monitor-") as scratch,
        contextlib.closing(_RemarkingJournal(Path(scratch) / "events.jsonl", items)) as journal,
        held_slot(
            slot,
            bench,
            job="hut monitor",
            lock_timeout_s=options.lock_timeout,
            journal=journal,
            console_log=_console_log(options.log, Path(scratch)),
            progress=LineProgress(slot.id),
        ) as held,
        _ended_by_signals(items),
    ):
        held.console.follow(_Stamper(items).put if options.timestamps else items.put)
        if typing:
            _remark(f"{slot.id}: what you type goes to the board; Ctrl-] ends")
        with keys_to(_Typist(held.console, items).take, sys.stdin.fileno()) if typing else contextlib.nullcontext():
            if options.reset:
                held.reset()
            _show(items, options.seconds)
    return OK


def _show(items: Items, seconds: float | None) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        try:
            item = items.get(timeout=None if left is None else max(0.0, left))
        except queue.Empty:
            return
        if isinstance(item, str):
            _remark(item)
        elif item is not None:
            sys.stdout.buffer.write(item)
            sys.stdout.buffer.flush()
        if item is None or (left is not None and left <= 0):
            return


def _remark(text: str) -> None:
    sys.stderr.write(f"hut: {text}\n")


class _RemarkingJournal(Journal):
    """Tells whoever looks at the console why it is quiet."""

    def __init__(self, path: Path, items: Items) -> None:
        super().__init__(path)
        self._items = items

    def append(self, event: Event) -> None:
        """See `Journal.append`."""
        super().append(event)
        if isinstance(event, PortLost):
            self._items.put(f"{event.reason}; waiting for it to come back")
        elif isinstance(event, PortReturned):
            self._items.put(f"the port is back after {event.after_s:.1f} s")


class _Stamper:
    """Begins every line with the time at which its first byte arrived."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._at_line_start = True

    def put(self, data: bytes) -> None:
        """Pass on one piece of output."""
        stamp = f"{utc_now()} ".encode()
        first = stamp if self._at_line_start else b""
        self._at_line_start = data.endswith(b"\n")
        self._items.put(first + data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:])


class _Typist:
    """Sends keys to the board until one of them is the end."""

    def __init__(self, console: Console, items: Items) -> None:
        self._console = console
        self._items = items
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, keys: bytes) -> None:
        """Send what comes before the end key; b"" ends as well."""
        text, end, _ = keys.partition(END_KEY)
        try:
            self._console.send(self._utf8.decode(text), end="")
        except PortError as error:
            self._items.put(f"not sent: {error}")
        if end or not keys:
            self._items.put(None)


def _console_log(log: Path | None, scratch: Path) -> Path:
    """Return where the bytes are recorded; the time stamps go beside that, into a file `.times`."""
    if log is None:
        # Nobody asked for a record, and a monitor may run for weeks.
        for name in ("console.log", "console.times"):
            (scratch / name).symlink_to(os.devnull)
        return scratch / "console.log"
    for path in (log, log.with_suffix(".times")):
        if path.exists():
            raise ConfigError(f"--log={log}: {path} exists already and is not overwritten; give another name")
    return log


@contextlib.contextmanager
def _ended_by_signals(items: Items) -> Iterator[None]:
    """While inside, a signal that asks to end is an item like any other: the way a monitor is meant to end."""
    handler: Callable[..., None] = lambda *_: items.put(None)  # noqa: E731 - SimpleQueue may be used in handlers
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, previous in before.items():
        if previous is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
