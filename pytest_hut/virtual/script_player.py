"""Play the console script of an application: `firmware.console_script` says what there is."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NoReturn

from pytest_hut.firmware.console_script import Action, Actions, ConsoleScript
from pytest_hut.virtual.bootloader import LoadedApp
from pytest_hut.virtual.machine import ResetCause
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.panic import Crash

_MAX_LINE = 1024
_FLOOD_LINE = 32
_FLOOD_LINES_AT_ONCE = 128
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LINE_END = re.compile(rb"[\r\n]")

RESET_REASONS = {
    ResetCause.POWER_ON: 1,
    ResetCause.SOFTWARE: 3,
    ResetCause.SOFTWARE_CPU: 3,
    ResetCause.INTERRUPT_WATCHDOG: 5,
    ResetCause.TASK_WATCHDOG: 6,
    ResetCause.RTC_WATCHDOG: 7,
    ResetCause.DEEP_SLEEP: 8,
    ResetCause.BROWN_OUT: 9,
}
"""Numbers of esp_reset_reason()."""


class ScriptPlayer:
    """One run of a script, from its `boot` actions to the reset it ends in."""

    def __init__(self, out: Output, app: LoadedApp, script: ConsoleScript) -> None:
        self._out = out
        self._app = app
        self._script = script
        self._received = bytearray()

    def run(self) -> ResetCause:
        """Play; returns when the application resets the chip, which may be never."""
        cause = self._play(self._script.boot, "")
        begun = self._out.machine.uptime_s()
        timers = deque((begun + after_s, actions) for after_s, actions in self._script.timers)
        if cause is None:
            self._prompt()
        while cause is None:
            due = timers[0][0] - self._out.machine.uptime_s() if timers else None
            if due is not None and due <= 0:
                cause = self._play(timers.popleft()[1], "")
            elif (line := self._next_line(due)) is not None:
                cause = self._play(self._script.actions_for(line), line)
                if cause is None:
                    self._prompt()
        return cause

    def _prompt(self) -> None:
        if self._script.prompt:
            self._out.write(self._script.prompt.encode())

    def _next_line(self, timeout: float | None) -> str | None:
        """Return the next command line, None when there is none yet (after one piece of input or the timeout)."""
        end = _LINE_END.search(self._received)
        if end is None:
            self._received += self._out.machine.uart.read(timeout)
            del self._received[: max(0, len(self._received) - _MAX_LINE * 4)]
            return None
        line = bytes(self._received[: end.start()])
        del self._received[: end.end()]
        return line[:_MAX_LINE].decode("utf-8", "replace").strip() or None

    def _play(self, actions: Actions, line: str) -> ResetCause | None:
        for action in actions:
            cause = self._do(action, line)
            if cause is not None:
                return cause
        return None

    def _do(self, action: Action, line: str) -> ResetCause | None:
        match action.verb:
            case "print":
                self._out.line(self._filled_in(action.value, line))
            case "log":
                level, _, rest = self._filled_in(action.value, line).partition(" ")
                tag, _, text = rest.partition(": ")
                self._out.log(level, tag, text)
            case "delay":
                self._out.sleep(action.value)
            case "flood":
                self._flood(action.value, line)
            case "panic":
                return Crash(self._out, self._app.description).happen(action.value)
            case "restart":
                return ResetCause.SOFTWARE_CPU
            case "hang":
                be_silent_for_ever(self._out)
        return None

    def _flood(self, count: int, line: str) -> None:
        argument = line.partition(" ")[2].strip()
        if argument.isascii() and argument.isdigit() and len(argument) < 10:
            count = int(argument)
        lines = _flood_lines(-(-count // _FLOOD_LINE))
        while chunk := b"".join(islice(lines, _FLOOD_LINES_AT_ONCE)):
            self._out.write(chunk)

    def _filled_in(self, text: str, line: str) -> str:
        about = self._app.description
        values = {
            "line": line,
            "args": line.partition(" ")[2].strip(),
            "uptime_ms": str(self._out.uptime_ms),
            "version": about.version if about else "",
            "project": about.project_name if about else "",
            "idf": about.idf_version if about else "",
            "elf_sha256": about.elf_sha256 if about else "",
            "partition": self._app.partition.label,
            "reset_reason": str(RESET_REASONS[self._out.machine.reset_cause]),
        }
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def be_silent_for_ever(out: Output) -> NoReturn:
    """Do nothing, listening to nobody, until the chip is stopped from outside."""
    while True:
        out.machine.uart.read(None)


def _flood_lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"flood %010d abcdefghijklm\r\n" % number
