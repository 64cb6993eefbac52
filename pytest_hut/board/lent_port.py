"""The line as esptool gets it: lent for a while, with a deadline, and never closed behind the owner's back."""

from __future__ import annotations

import time

from pytest_hut.board.framing import PacketReader
from pytest_hut.errors import FlashError
from pytest_hut.link.base import Link

DEFAULT_TIMEOUT_S = 3.0
"""How long one read may wait where esptool sets no limit of its own, as for the stub's greeting."""


class LentPort:
    """What esptool needs of a pyserial port, on our own link: closing it does nothing, no wait outlives the deadline.

    esptool may wait for a silent chip without limit after it started its stub, and closes the port on some errors;
    the owner of the port can have neither.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.step = "connecting"
        """What happens now, for messages."""
        self.deadline = float("inf")
        self.timeout = DEFAULT_TIMEOUT_S
        """Seconds one read may wait."""
        self.write_timeout: float | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.packets = PacketReader()

    @property
    def name(self) -> str:
        """The device path or URL."""
        return self._link.name

    port = name

    @property
    def baudrate(self) -> int:
        """Bits per second; assignable."""
        return self._link.baudrate

    @baudrate.setter
    def baudrate(self, value: int) -> None:
        self._link.baudrate = value

    def set_step(self, step: str, seconds: float) -> None:
        """Name what happens next, for messages, and how long it may take."""
        self.step = step
        self.deadline = time.monotonic() + seconds

    def receive(self, timeout: float) -> bytes:
        """Return what arrives within `timeout` seconds, b"" if nothing does.

        Raises:
            FlashError: the step's deadline has passed.
            PortError: the port went away.
        """
        data = self._link.receive(min(timeout, self._left()))
        self.bytes_received += len(data)
        return data

    def write(self, data: bytes) -> int:
        """Send all of it. Raises FlashError once the deadline has passed, PortError."""
        self._left()
        self._link.write(data)
        self.bytes_sent += len(data)
        return len(data)

    def reset_input_buffer(self) -> None:
        """Forget everything that has arrived."""
        self.packets.clear()
        while self._link.receive(0):
            self._left()

    def flushOutput(self) -> None:
        """Nothing is kept back here; the name is pyserial's, which esptool calls."""

    def close(self) -> None:
        """Do nothing: the port is only lent."""

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise FlashError(f"{self.step} took too long; the board stopped answering")
        return left
