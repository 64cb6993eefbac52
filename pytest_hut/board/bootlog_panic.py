"""Reads crash reports: the panic handler's output of ESP-IDF 3.3 to 5.5, on Xtensa and RISC-V."""

from __future__ import annotations

import re

from pytest_hut.board.bootlog_model import Boot, BootEvent, Panic, PanicEnded, PanicKind, PanicSeen, TaskWatchdogSeen
from pytest_hut.board.bootlog_patterns import split_log_line

_HEADERS: tuple[tuple[PanicKind, re.Pattern[str]], ...] = (
    (
        PanicKind.GURU,
        re.compile(r"Guru Meditation Error: Core +(?P<core>\d+) panic'ed(?: \((?P<cause>.*?)\)(?:[. ]|$))?.*"),
    ),
    (
        PanicKind.STACK_OVERFLOW,
        re.compile(r"\*\*\*ERROR\*\*\* A stack overflow in task (?P<cause>.+?) has been detected.*"),
    ),
    (PanicKind.STACK_SMASH, re.compile(r"Stack smashing protect failure!?")),
    (PanicKind.ASSERT, re.compile(r"^assert failed: (?P<cause>.*)")),
    (PanicKind.ASSERT, re.compile(r'^assertion "(?P<cause>.*)" failed: .*')),
    (
        PanicKind.ABORT,
        re.compile(r"^ESP_ERROR_CHECK failed: esp_err_t \S+ \((?P<cause>\w+)\) at (?P<pc>0x[0-9a-f]+).*"),
    ),
    (PanicKind.ABORT, re.compile(r"^terminate called(?: after throwing an instance of '(?P<cause>.*)')?.*")),
    (PanicKind.ABORT, re.compile(r"^abort\(\) was called at PC (?P<pc>0x[0-9a-f]+)(?: on core (?P<core>\d+))?")),
    (PanicKind.BROWN_OUT, re.compile(r"Brownout detector was triggered")),
    (PanicKind.TASK_WATCHDOG, re.compile(r"Task watchdog got triggered.*")),
    (PanicKind.OTHER, re.compile(r"^Panic handler entered multiple times.*")),
)
"""Anchored where an application could well print the same words inside a line of its own."""

_DEBUG_REASON = re.compile(r"Debug exception reason: (.*)")
_STACK_REASON = re.compile(r"stack canary|watchpoint \d+ triggered", re.IGNORECASE)
_ENDED = re.compile(r"Rebooting\.\.\.|CPU halted\.|Entering gdb stub")
_PC = re.compile(r"\b(?:ME)?PC +: (0x[0-9a-f]{8})")
_ADDRESS = re.compile(r"\b(?:EXCVADDR|MTVAL) *: (0x[0-9a-f]{8})")
_BACKTRACE = re.compile(r"Backtrace: ?(0x.*)")
_ELF = re.compile(r"ELF file SHA256: *([0-9a-f]{8,64})")
_STARVING = re.compile(r"^ *- +(.*)")
_MOST_LINES = 500
"""A report longer than this is none: something else printed the words, or a core dump follows."""


def _number(text: str | None) -> int | None:
    return int(text, 0) if text else None


class PanicReader:
    """Collects one crash report at a time. Feed it every line; it says which ones were part of a report."""

    def __init__(self) -> None:
        self._panic: Panic | None = None
        self._boot: Boot | None = None
        self._announced = False
        self._lines = 0

    @property
    def busy(self) -> bool:
        """Whether a report is being collected."""
        return self._panic is not None

    def line(self, text: str, time_s: float, boot: Boot | None) -> tuple[list[BootEvent], bool]:
        """Take one cleaned line; return the events it caused and whether it belongs to a report."""
        if self._panic is None:
            return self._start(text, time_s, boot)
        return self._continue(self._panic, text, time_s)

    def end(self, time_s: float) -> list[BootEvent]:
        """The chip was reset: close the open report, if any."""
        if self._panic is None:
            return []
        return self._announce(time_s) + self._close(self._panic, time_s)

    def _start(self, text: str, time_s: float, boot: Boot | None) -> tuple[list[BootEvent], bool]:
        found = _find_header(text)
        if found is None:
            return [], False
        kind, match = found
        panic = Panic(kind=kind, text=match.group(0).strip(), time_s=time_s)
        _take_details(panic, match)
        if kind is PanicKind.GURU:
            _refine_exception(panic, text)
        self._panic, self._boot, self._announced, self._lines = panic, boot, False, 0
        if kind is PanicKind.TASK_WATCHDOG:
            panic.fatal = False
            if boot is not None:
                boot.task_watchdog = panic
            return [TaskWatchdogSeen(panic, boot, time_s)], True
        if boot is not None:
            boot.panic = panic
        # The reason of a debug exception is the next line, and the part of the message worth reading.
        if panic.cause == "Unhandled debug exception":
            return [], True
        return self._announce(time_s), True

    def _continue(self, panic: Panic, text: str, time_s: float) -> tuple[list[BootEvent], bool]:
        events: list[BootEvent] = []
        self._lines += 1
        if panic.fatal and not self._announced:
            reason = _DEBUG_REASON.search(text)
            if reason:
                panic.text = f"{panic.text} {text}"
                _refine_exception(panic, text)
            events += self._announce(time_s)
        header = _find_header(text)
        if header is not None:
            _take_details(panic, header[1])
        ended = _ENDED.search(text) is not None
        if not panic.fatal and (ended or header is not None or text.endswith("Aborting.")):
            panic.fatal = True
            if self._boot is not None:
                self._boot.panic, self._boot.task_watchdog = panic, None
            events += self._announce(time_s)
        self._details(panic, text)
        if ended or self._lines > _MOST_LINES:
            events += self._close(panic, time_s)
        elif not panic.fatal and self._complaint_is_over(panic, text):
            self._panic = None
            return events, split_log_line(text) is None
        return events, True

    @staticmethod
    def _details(panic: Panic, text: str) -> None:
        if match := _BACKTRACE.search(text):
            panic.backtrace = panic.backtrace or match[1].strip()
        elif match := _ELF.search(text):
            panic.elf_sha256 = match[1]
        elif panic.kind is PanicKind.TASK_WATCHDOG and not panic.cause:
            parts = split_log_line(text)
            starving = _STARVING.match(parts[2]) if parts else None
            panic.cause = starving[1].strip() if starving else ""
        if panic.pc is None and (match := _PC.search(text)):
            panic.pc = int(match[1], 16)
        if panic.address is None and (match := _ADDRESS.search(text)):
            panic.address = int(match[1], 16)

    @staticmethod
    def _complaint_is_over(panic: Panic, text: str) -> bool:
        if panic.backtrace:
            return True
        parts = split_log_line(text)
        return parts is not None and parts[1] != "task_wdt"

    def _announce(self, time_s: float) -> list[BootEvent]:
        assert self._panic is not None
        if self._announced or not self._panic.fatal:
            return []
        self._announced = True
        return [PanicSeen(self._panic, self._boot, time_s)]

    def _close(self, panic: Panic, time_s: float) -> list[BootEvent]:
        self._panic = None
        return [PanicEnded(panic, self._boot, time_s)] if panic.fatal else []


def _find_header(text: str) -> tuple[PanicKind, re.Match[str]] | None:
    for kind, pattern in _HEADERS:
        if match := pattern.search(text):
            return kind, match
    return None


def _take_details(panic: Panic, match: re.Match[str]) -> None:
    """Fill in what the report does not know yet; abort() after a failed check adds core and address to it."""
    found = match.groupdict()
    panic.cause = panic.cause or (found.get("cause") or "").strip()
    panic.pc = panic.pc if panic.pc is not None else _number(found.get("pc"))
    panic.core = panic.core if panic.core is not None else _number(found.get("core"))
    if panic.kind is PanicKind.ASSERT and panic.pc is None and re.fullmatch(r"0x[0-9a-f]{8}", panic.cause):
        # Built with silent assertions: only the address is printed.
        panic.pc = int(panic.cause, 16)


def _refine_exception(panic: Panic, text: str) -> None:
    if reason := _DEBUG_REASON.search(text):
        panic.cause = reason[1].strip()
    if "Interrupt wdt timeout" in panic.cause:
        panic.kind = PanicKind.INTERRUPT_WATCHDOG
    elif panic.cause == "Stack protection fault" or _STACK_REASON.search(panic.cause):
        panic.kind = PanicKind.STACK_OVERFLOW
