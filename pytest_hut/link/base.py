"""What the board needs of its line, whatever carries it."""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """One open serial line. One thread reads; any thread may write, set the lines, or interrupt the read."""

    name: str
    """The device path or URL, for messages."""

    @property
    def baudrate(self) -> int:
        """Bits per second; assignable, takes effect at once."""

    @baudrate.setter
    def baudrate(self, value: int) -> None: ...

    def open(self, timeout_s: float) -> None:
        """Open the line, waiting for the device to appear. Leaves the reset lines idle.

        Raises:
            PortError: it did not appear, belongs to somebody else, or is no serial port.
        """

    def close(self) -> None:
        """Close it. Idempotent."""

    def read(self) -> bytes:
        """Block until there is something and return it; b"" after `interrupt`, once all that had arrived is read.

        Raises:
            PortError: the port went away.
        """

    def interrupt(self) -> None:
        """Make a `read` return b"": the current one, or the first that finds nothing more."""

    def receive(self, timeout_s: float) -> bytes:
        """Return what is there, waiting for it up to `timeout_s`; b"" if nothing comes.

        For whoever drives the line while nobody is in `read`; not interruptible. Raises PortError as `read`.
        """

    def descriptor(self) -> int | None:
        """The open local device's file descriptor; None where there is none, as on the network."""

    def write(self, data: bytes) -> None:
        """Send all of it. Raises PortError when the port went away or takes nothing for 10 s."""

    def set_lines(self, *, dtr: bool, rts: bool) -> None:
        """Drive both modem lines (True is asserted), at the same instant where the carrier can.

        Raises:
            PortError: the port went away, or has no such lines.
        """
