"""The seam inside a virtual board: what code "running on the chip" sees of the hardware around it.

The board (`board.py`) owns the wire, the reset circuit and the power, and runs one *program* at a time on the
chip: the ROM loader when IO0 was low at reset, the boot chain otherwise. A program is a function
`(Machine) -> ResetCause`: it runs until the chip resets itself and says why. Resets from outside (EN low, power
off, brown-out, end of the server) are raised through the program as `ChipStopped` by every `Uart` method and by
`Machine.sleep`; programs let it pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from pytest_hut.bench.virtual_board import VirtualBoardSpec


class ResetCause(Enum):
    """Why the chip starts; the ROM prints it in its own words, which differ by chip."""

    POWER_ON = auto()
    """Power came, or EN rose: the two are the same to an ESP32."""
    SOFTWARE_CPU = auto()
    """esp_restart() and the end of a panic."""
    SOFTWARE = auto()
    """The bootloader gave up."""
    RTC_WATCHDOG = auto()
    """The watchdog that guards the boot itself."""
    TASK_WATCHDOG = auto()
    """Timer group 0 watchdog."""
    INTERRUPT_WATCHDOG = auto()
    """Timer group 1 watchdog."""
    BROWN_OUT = auto()
    DEEP_SLEEP = auto()


class ChipStopped(Exception):
    """The chip lost power, was held in reset, or the server ends: the running program is over."""


class Uart(Protocol):
    """UART0 of the chip. Bytes take their time when the board is paced; a baud mismatch garbles them."""

    baud: int
    """The chip's own baud rate; assignable."""

    def read(self, timeout: float | None) -> bytes:
        """Return what has arrived, at least one byte; b"" after `timeout` seconds (None waits for ever)."""

    def write(self, data: bytes) -> None:
        """Send; returns when the last byte is on the wire (paced boards), so printing costs its time."""

    def adopt_host_baud(self) -> None:
        """Set `baud` to the host's current rate, as the ROM's auto-baud does on a SYNC frame."""


class Flash(Protocol):
    """The SPI flash: `size` bytes that survive the session. Erased bytes are 0xff."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes; raises ValueError outside the chip."""

    def write(self, offset: int, data: bytes) -> None:
        """Program erased flash: the result is old AND new, as NOR flash does. Raises ValueError outside the chip."""

    def erase(self, offset: int, length: int) -> None:
        """Erase whole 4 KiB sectors covering the range. Raises ValueError outside the chip."""


@dataclass
class Machine:
    """Everything a program on the chip can touch."""

    spec: VirtualBoardSpec
    uart: Uart
    flash: Flash
    mac: bytes
    """The six bytes of the base MAC address."""
    reset_cause: ResetCause
    download: bool
    """IO0 was low when EN rose."""
    sleep: Callable[[float], None]
    """Let seconds pass on the chip; raises ChipStopped when it stops meanwhile."""
    uptime_s: Callable[[], float]
    """Seconds since this start of the chip."""
    take_fault: Callable[[str], bool]
    """`take_fault("md5_wrong_once")` is True once after that fault was switched on, then False."""


Program = Callable[[Machine], ResetCause]
