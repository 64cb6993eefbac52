"""Follows a board's console output and says, while it arrives, what the board is doing.

`BootLog` is fed raw bytes with the host's time and returns typed events; it keeps what it learned in `boots`. It
does no I/O and reads no clock. Results do not depend on how the stream is cut into chunks. A line counts when its
end (LF, CR, or both) has arrived; lines longer than 4 KiB are cut there.

While an application just runs, a chunk costs one search for a few byte strings; only a boot or a crash report is
read line by line.
"""

from __future__ import annotations

import re
from collections import deque

from pytest_hut.board.bootlog_boot import BootReader
from pytest_hut.board.bootlog_model import (
    Boot,
    BootEvent,
    BootLoopSeen,
    Panic,
    PanicEnded,
    PanicKind,
    PanicSeen,
    ResetCategory,
    ResetSeen,
)
from pytest_hut.board.bootlog_panic import PanicReader
from pytest_hut.board.bootlog_patterns import (
    BOOTLOADER_BANNER,
    BOOTLOADER_DAMAGED,
    FLASH_READ,
    INVALID_HEADER,
    NEEDLES,
    RESET,
    clean,
    is_download_mode,
    reset_category,
    split_log_line,
)

_LONGEST_LINE = 4096
_KEPT_BOOTS = 1000
_LINE_END = re.compile(rb"[\r\n]+")
_UNPLANNED = frozenset({ResetCategory.SOFTWARE, ResetCategory.WATCHDOG, ResetCategory.BROWN_OUT})


class BootLog:
    """Incremental parser of one board's console stream.

    `loop_resets` resets in a row that the chip made itself, each within `loop_life_s` seconds of the one before,
    are a boot loop. Call `planned_reset()` when a test makes the firmware restart.
    """

    def __init__(self, *, loop_resets: int = 3, loop_life_s: float = 10.0) -> None:
        self._loop_resets = loop_resets
        self._loop_life_s = loop_life_s
        self._pending = b""
        self._reader: BootReader | None = None
        self._panics = PanicReader()
        self._boots: deque[Boot] = deque(maxlen=_KEPT_BOOTS)
        self._boot_count = 0
        self._self_resets = 0
        self._last_start_s = 0.0

    @property
    def boots(self) -> list[Boot]:
        """The boots seen, oldest first; the last 1000 of them (`Boot.number` counts all)."""
        return list(self._boots)

    @property
    def current(self) -> Boot | None:
        """The boot that is going on; None while the log has not shown the start of one."""
        return self._reader.boot if self._reader else None

    def planned_reset(self) -> None:
        """The next resets are wanted: forget those counted towards a boot loop."""
        self._self_resets = 0

    def cut_off(self) -> None:
        """The chip is held in reset: a line that it had begun does not go on with what comes next."""
        self._pending = b""

    def feed(self, data: bytes, time_s: float) -> list[BootEvent]:
        """Take the next bytes off the wire, received at host time `time_s` (seconds); return what they revealed."""
        buffer = self._pending + data if self._pending else data
        end = max(buffer.rfind(b"\n"), buffer.rfind(b"\r")) + 1
        rest = len(buffer) - end
        if rest >= _LONGEST_LINE:
            end += rest - rest % _LONGEST_LINE
        if end == 0:
            self._pending = buffer
            return []
        self._pending = buffer[end:]
        body = buffer[:end]
        if self._quiet and not _interesting(body):
            return []
        return self._take(body, time_s)

    @property
    def _quiet(self) -> bool:
        """Whether only lines with one of the NEEDLES can matter."""
        return not self._panics.busy and (self._reader is None or self._reader.done)

    def _take(self, body: bytes, time_s: float) -> list[BootEvent]:
        events: list[BootEvent] = []
        for line in _LINE_END.split(body):
            for start in range(0, len(line), _LONGEST_LINE):
                piece = line[start : start + _LONGEST_LINE]
                if self._quiet and not _interesting(piece):
                    continue
                text = clean(piece)
                if text:
                    events += self._line(text, time_s)
        return events

    def _line(self, text: str, time_s: float) -> list[BootEvent]:
        if (reset := RESET.search(text)) and split_log_line(text) is None:
            return self._reset(reset, time_s)
        if self._is_lost_start(text):
            return self._lost_start(text, time_s)
        events, taken = self._panics.line(text, time_s, self.current)
        if taken or self._reader is None:
            return events
        if self._reader.done and "Application information:" in text:
            self._reader.resume_for_banner()
        if not self._reader.done:
            events += self._reader.line(text, time_s)
        return events

    def _reset(self, match: re.Match[str], time_s: float) -> list[BootEvent]:
        code, reason = int(match["code"], 16), match["reason"]
        category = reset_category(code, reason)
        events = self._panics.end(time_s)
        events += self._silent_crash(category, match[0], time_s)
        boot = Boot(
            number=self._boot_count + 1,
            reset_code=code,
            reset_reason=reason,
            category=category,
            boot_mode=int(match["mode"], 16) if match["mode"] else None,
            boot_mode_text=match["text"] or "",
            download_mode=is_download_mode(match["text"] or ""),
            reset_s=time_s,
        )
        return events + self._start(boot, time_s)

    def _silent_crash(self, category: ResetCategory, text: str, time_s: float) -> list[BootEvent]:
        """A watchdog or brown-out that the firmware could not report ended the boot before: say so for it."""
        kind = {
            ResetCategory.WATCHDOG: PanicKind.HARDWARE_WATCHDOG,
            ResetCategory.BROWN_OUT: PanicKind.BROWN_OUT,
        }.get(category)
        before = self.current
        if kind is None or before is None or before.download_mode or before.panic or before.failure:
            return []
        before.panic = Panic(kind=kind, text=text, time_s=time_s)
        return [PanicSeen(before.panic, before, time_s), PanicEnded(before.panic, before, time_s)]

    def _is_lost_start(self, text: str) -> bool:
        """Whether the line shows that a boot began without our having seen the ROM's `rst:` line."""
        boot = self.current
        if split_log_line(text) is None:
            # The ROM repeats these while it keeps trying; they are news only where no boot is going on.
            said_by_rom = INVALID_HEADER.match(text) or FLASH_READ.match(text) or BOOTLOADER_DAMAGED.match(text)
            return bool(said_by_rom) and (boot is None or boot.app_started or boot.bootloader_s is not None)
        if BOOTLOADER_BANNER.search(text):
            return boot is None or boot.bootloader_s is not None or boot.app_started
        if "Application information:" in text:
            return boot is None or boot.has_app_info
        return False

    def _lost_start(self, text: str, time_s: float) -> list[BootEvent]:
        events = self._panics.end(time_s) + self._start(Boot(number=self._boot_count + 1), time_s)
        assert self._reader is not None
        return events + self._reader.line(text, time_s)

    def _start(self, boot: Boot, time_s: float) -> list[BootEvent]:
        before = self.current
        self._reader = BootReader(boot)
        self._boots.append(boot)
        self._boot_count += 1
        quick = time_s - self._last_start_s <= self._loop_life_s
        self._last_start_s = time_s
        events: list[BootEvent] = [ResetSeen(boot, time_s)]
        if before is None or before.download_mode or boot.category not in _UNPLANNED or not quick:
            self._self_resets = 0
            return events
        self._self_resets += 1
        if self._self_resets == self._loop_resets:
            events.append(BootLoopSeen(boot, self._self_resets, time_s))
        return events


def _interesting(data: bytes) -> bool:
    return any(needle in data for needle in NEEDLES)
