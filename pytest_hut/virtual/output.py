"""What programs on the chip print with."""

from __future__ import annotations

from pytest_hut.virtual.machine import Machine

_COLOURS = {"I": 32, "W": 33, "E": 31}


class Output:
    """UART0 as a program prints on it, with the lines of ESP-IDF's logging."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def uptime_ms(self) -> int:
        """Milliseconds since the chip started."""
        return int(self.machine.uptime_s() * 1000)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.machine.uart.write(data)

    def line(self, text: str = "") -> None:
        """Send a line; the line end is CR LF, as everywhere on an ESP console."""
        self.write(text.encode("utf-8", "replace") + b"\r\n")

    def log(self, level: str, tag: str, text: str, *, at_ms: int | None = None) -> None:
        """Send a line as ESP_LOGI, ESP_LOGW or ESP_LOGE (`level` I, W, E) does; `at_ms` replaces the time."""
        stamp = self.uptime_ms if at_ms is None else at_ms
        self.line(f"\x1b[0;{_COLOURS[level]}m{level} ({stamp}) {tag}: {text}\x1b[0m")

    def info(self, tag: str, text: str) -> None:
        """Short for `log("I", ...)`."""
        self.log("I", tag, text)

    def error(self, tag: str, text: str) -> None:
        """Short for `log("E", ...)`."""
        self.log("E", tag, text)

    def sleep(self, seconds: float) -> None:
        """Let the chip be busy for a while."""
        self.machine.sleep(seconds)
