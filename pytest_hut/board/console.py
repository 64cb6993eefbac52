"""The console of a board: expect and send, with pexpect's semantics, over what came since the test says."""

from __future__ import annotations

import codecs
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
from pexpect.spawnbase import SpawnBase

from pytest_hut.board.bootlog_model import Boot
from pytest_hut.board.reader import Heard, PortReader
from pytest_hut.errors import BootFailure, BootLoop, ExpectTimeout, HutError, NoSignOfLife, PortError
from pytest_hut.link.base import Link

__tracebackhide__ = True  # A test's author wants to see the test's line, not ours.

QUIET_S = 1.0
"""A chip's ROM speaks within milliseconds of a reset; a board silent for this long is dead, unpowered or unplugged."""

LOST_PORT_GRACE_S = 1.5
"""A port that comes back within this time ends no wait."""

SEARCH_BACK = 1 << 19
"""How far back, in characters, a regular expression is searched for when more text comes.

A crash report is far shorter, a core dump seldom longer. Were everything since the mark searched each time, waiting in
a flood of output would take ever longer, and keep the reader from reading meanwhile.
"""

PIECE = SEARCH_BACK // 4
"""Most bytes taken at a time; less than `SEARCH_BACK`, so that nothing is passed over."""

Pattern = str | re.Pattern[str] | type[pexpect.TIMEOUT]


class Console:
    """What the board prints and what is sent to it.

    `expect` looks only at what arrived since the last `mark`; every test begins with one. A panic, a watchdog or
    brown-out reset, a boot that cannot succeed, a boot loop, or a lost port ends any wait at once.
    """

    def __init__(self, link: Link, reader: PortReader, log_path: Path) -> None:
        self.log_path = log_path
        """The raw log file of this session, complete and in order."""
        self._link = link
        self._reader = reader
        self._heard: Heard = reader.heard
        self._tolerant = False
        self._boots_before = 0
        """Number of the last boot that is judged already."""
        self._reset_s: float | None = None
        self._search = _Search(self, self._heard.window.end)

    def mark(self) -> int:
        """Forget, for judging, everything up to now. Returns the offset of now in the log file, in bytes."""
        self._reader.catch_up()
        with self._heard.changed:
            end = self._heard.window.end
            self._heard.window.discard(end)
            self._heard.fault = None
            boot = self._heard.log.current
            self._boots_before = boot.number if boot else 0
            self._heard.log.planned_reset()
            self._reset_s = None
        self._search = _Search(self, end)
        return end

    def mark_reset(self) -> None:
        """`mark`, at a moment when the chip is held in reset: from here, silence means that it is dead."""
        self.mark()
        with self._heard.changed:
            self._heard.log.cut_off()
        self._reset_s = time.monotonic()

    def send(self, text: str, end: str = "\n") -> None:
        """Send a line (or, with `end=""`, just the text) to the board. Raises PortError."""
        self._link.write((text + end).encode())

    def expect(self, pattern: Pattern | Sequence[Pattern], timeout: float = 10.0) -> int:
        """Wait until one of the regular expressions matches; `before`, `after` and `match` tell what.

        Args:
            pattern: as pexpect takes it: a string is a regular expression; a list is tried in order;
                `pexpect.TIMEOUT` in a list makes running out of time a match.
            timeout: seconds.

        Returns:
            The index of the pattern that matched, 0 for a single one.

        Raises:
            ExpectTimeout: nothing matched in time; the text shows the last lines.
            FirmwareCrash, BootFailure, BootLoop: the firmware cannot print it any more.
            PortError: the port went away and did not come back.
        """
        return self._wait(pattern, timeout, lambda: self._search.expect(_as_list(pattern), timeout, SEARCH_BACK))

    def expect_exact(self, text: str | Sequence[str], timeout: float = 10.0) -> int:
        """Like `expect` for plain strings; faster, and nothing needs escaping."""
        return self._wait(text, timeout, lambda: self._search.expect_exact(text, timeout))

    @property
    def before(self) -> str:
        """What came before the last match."""
        return str(self._search.before or "")

    @property
    def after(self) -> str:
        """What the last match matched."""
        return self._search.after if isinstance(self._search.after, str) else ""

    @property
    def match(self) -> re.Match[str]:
        """The match object of the last `expect`."""
        found = self._search.match
        if not isinstance(found, re.Match):
            raise ValueError("the last expect did not match a regular expression")
        return found

    def expect_boot(self, timeout: float = 10.0, *, again: bool = False) -> Boot:
        """Wait until the board has booted since the last mark, and return what it said about itself.

        A boot is complete when the application runs and its banner is in (see `BootComplete`). It is returned once:
        the next call waits for the next boot; with `again` the next call returns this boot, too.

        Raises:
            BootFailure: it did not get there within `timeout` seconds, or said that it cannot.
            BootLoop, FirmwareCrash: it will not get there.
            NoSignOfLife: after a reset through this suite not one byte came.
            PortError: the port went away and did not come back.
        """
        deadline = time.monotonic() + timeout
        heard = self._heard
        with heard.changed:
            while True:
                boots = [boot for boot in heard.log.boots if boot.number > self._boots_before]
                complete = next((boot for boot in boots if boot.complete), None)
                if complete is not None and not self._fault_before(complete):
                    if not again:
                        self._boots_before = complete.number
                    return complete
                self._raise_if_over()
                silent_until = self._silent_until()
                now = time.monotonic()
                if now >= silent_until:
                    raise NoSignOfLife(
                        f"{self._link.name} stayed silent for {QUIET_S:g} s after the reset: not even the chip's ROM "
                        "spoke; check power, cable and port"
                    )
                if now >= deadline:
                    raise BootFailure(_how_far(boots[-1] if boots else None, timeout) + self._tail())
                heard.changed.wait(self._wait_s(min(deadline, silent_until), now))

    def expect_to_stay_up(self, seconds: float) -> None:
        """Listen for `seconds` and return if the firmware neither crashed nor restarted.

        Raises:
            BootLoop: the chip started anew.
            FirmwareCrash, PortError: as `expect`.
        """
        deadline = time.monotonic() + seconds
        with self._heard.changed:
            up = self._heard.log.current
            while True:
                self._raise_if_over()
                boot = self._heard.log.current
                if up is not None and boot is not None and boot is not up:
                    raise BootLoop(
                        f"the board did not stay up: it restarted by itself ({boot.reset_reason or 'reason unknown'})"
                        f"{self._tail()}"
                    )
                left = deadline - time.monotonic()
                if left <= 0:
                    if self._heard.lost_s is not None:
                        raise self._lost()
                    return
                self._heard.changed.wait(left)

    @contextlib.contextmanager
    def tolerating_faults(self) -> Iterator[None]:
        """While inside, a panic or a failed boot ends no wait: for tests that provoke one."""
        self._tolerant = True
        try:
            yield
        finally:
            with self._heard.changed:
                self._heard.fault = None
            self._tolerant = False

    def follow(self, receiver: Callable[[bytes], object]) -> None:
        """From now on hand every piece that arrives to `receiver` as well; it is called from the reader's thread.

        It must neither wait nor call this console.
        """
        with self._heard.changed:
            self._heard.followers.append(receiver)

    def latest_boot(self) -> Boot | None:
        """Return the last boot that began since the mark, however far it got."""
        with self._heard.changed:
            boot = self._heard.log.current
            return boot if boot and boot.number > self._boots_before else None

    def text_since_mark(self) -> str:
        """Return everything since the last mark (at most the last few MiB)."""
        with self._heard.changed:
            return self._heard.window.read(0).decode(errors="replace")

    def next_bytes(self, offset: int, timeout: float | None) -> tuple[bytes, int]:
        """Return what came behind `offset`, and the offset of its end; waits for it, b"" when `timeout` is over.

        At most `PIECE` bytes. For `_Search`.
        """
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        heard = self._heard
        with heard.changed:
            while heard.window.end <= offset:
                self._raise_if_over()
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return b"", offset
                heard.changed.wait(self._wait_s(deadline, now))
            start = max(offset, heard.window.start)
            data = heard.window.read(start, PIECE)
            return data, start + len(data)

    def _wait(self, pattern: Any, timeout: float, search: Any) -> int:
        try:
            return int(search())
        except HutError as error:
            raise error.with_traceback(None) from None  # Not pexpect's frames: the test's line is what counts.
        except pexpect.TIMEOUT:
            wanted = getattr(pattern, "pattern", pattern)
            raise ExpectTimeout(f"did not see {wanted!r} within {timeout:g} s{self._tail()}") from None

    def _raise_if_over(self) -> None:
        heard = self._heard
        if heard.fault is not None and not self._tolerant:
            raise heard.fault
        if heard.lost_s is not None and time.monotonic() - heard.lost_s >= LOST_PORT_GRACE_S:
            raise self._lost()

    def _fault_before(self, boot: Boot) -> bool:
        heard = self._heard
        return heard.fault is not None and not self._tolerant and heard.fault_s <= (boot.complete_s or 0.0)

    def _lost(self) -> PortError:
        return self._reader.port_error()

    def _wait_s(self, deadline: float | None, now: float) -> float | None:
        ends = [] if deadline is None else [deadline]
        if self._heard.lost_s is not None:
            ends.append(self._heard.lost_s + LOST_PORT_GRACE_S)
        return max(0.001, min(ends) - now) if ends else None

    def _silent_until(self) -> float:
        if self._reset_s is None or self._heard.last_byte_s >= self._reset_s or self._heard.lost_s is not None:
            return float("inf")
        return self._reset_s + QUIET_S

    def _tail(self) -> str:
        lines = [
            line for line in self._heard.window.read(0)[-2000:].decode(errors="replace").split("\n") if line.strip()
        ]
        if not lines:
            return "; nothing was printed"
        shown = "\n".join(re.sub(r"\x1b\[[0-9;]*m|\r", "", line) for line in lines[-8:])
        return f"; the last lines were:\n{shown}"


if TYPE_CHECKING:
    _TextSpawn = SpawnBase[str]
else:
    _TextSpawn = SpawnBase


class _Search(_TextSpawn):
    """pexpect's matching over the console's bytes, from one offset on."""

    def __init__(self, console: Console, offset: int) -> None:
        super().__init__(timeout=10, encoding="utf-8", codec_errors="replace")
        self.delayafterread = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._console = console
        self._offset = offset

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        """Return new text; the name is pexpect's, it does wait."""
        del size
        data, self._offset = self._console.next_bytes(self._offset, timeout)
        if not data:
            raise pexpect.TIMEOUT("no more output")
        return self._utf8.decode(data)


def _as_list(pattern: Pattern | Sequence[Pattern]) -> list[Any]:
    return [pattern] if isinstance(pattern, (str, re.Pattern, type)) else list(pattern)


def _how_far(boot: Boot | None, timeout: float) -> str:
    if boot is None:
        return f"the board did not boot within {timeout:g} s: the chip's ROM did not start anew"
    if boot.download_mode:
        return "the chip started its serial loader instead of the firmware: IO0 is low at reset"
    if boot.app_started:
        where = "the application started, but did not get as far as its own banner"
    elif boot.loaded_s is not None:
        where = f"the bootloader loaded the application ({boot.partition}), which then printed nothing"
    elif boot.bootloader_s is not None:
        where = "the bootloader started, but loaded no application"
    else:
        where = "the ROM started, but no bootloader answered"
    return f"the board did not boot within {timeout:g} s: {where}"
