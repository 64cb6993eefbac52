"""The local serial device."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import select
import socket
import struct
import termios
import time
from pathlib import Path

import serial

from pytest_hut.errors import PortError
from pytest_hut.link.presence import wait_until_usable
from pytest_hut.link.pyserial_port import PyserialPort

READ_SIZE = 1 << 16

MUCH = 2048
"""A tty hands out 4 KiB at a time; where this much came at once, more is likely waiting."""

WRITE_TIMEOUT_S = 10.0

BUSY_GRACE_S = 3.0
"""Services that probe new serial devices hold them for a moment; whoever holds one longer means it."""

TROUBLE = (serial.SerialException, OSError, termios.error)
"""What using a device may raise; termios.error, of a device that goes away in mid-call, is no OSError."""

IN_USE = "is in use by another program; close it (fuser -v shows which)"


class TtyLink(PyserialPort[serial.Serial]):
    """A serial device of this host, opened exclusively and read without polling."""

    def __init__(self, path: str, baudrate: int) -> None:
        super().__init__(path, baudrate)
        self._lines: ModemLines | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._arrivals = select.poll()

    def open(self, timeout_s: float) -> None:
        """See `Link.open`."""
        reasons = ["is not there; check the cable, the power, and USB pass-through"]
        start = time.monotonic()

        def attempt() -> bool:
            try:
                self._port = serial.Serial(self.name, self._baudrate, exclusive=True, timeout=0)
            except TROUBLE as error:
                reasons.append(_why_not_open(error))
                if reasons[-1] == IN_USE and time.monotonic() - start > BUSY_GRACE_S:
                    raise PortError(f"{self.name} {IN_USE}") from None
                return False
            return True

        if not wait_until_usable(Path(self.name), attempt, start + timeout_s):
            raise PortError(f"{self.name} {reasons[-1]} (waited {timeout_s:g} s)")
        port = self.port
        port.write_timeout = WRITE_TIMEOUT_S
        self._lines = _modem_lines(self.name, port.fileno())
        if self._lines is not None:
            # The kernel asserts both on open, which resets nothing; releasing both at once keeps it so.
            self._lines.set(dtr=False, rts=False)
        self._poll = select.poll()
        self._poll.register(port.fileno(), select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._arrivals = select.poll()
        self._arrivals.register(port.fileno(), select.POLLIN)

    def close(self) -> None:
        """See `Link.close`."""
        port, self._port = self._port, None
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.close()
        if port is not None:
            port.close()

    def read(self) -> bytes:
        """See `Link.read`."""
        fd = self.port.fileno()
        if all(ready == self._wake_read for ready, _events in self._poll.poll()):
            os.read(self._wake_read, 4096)
            return b""
        return self._take(fd)

    def receive(self, timeout_s: float) -> bytes:
        """See `Link.receive`."""
        fd = self.port.fileno()
        # Rounded up: poll(2) counts whole milliseconds, and must not say that the time is over when it is not.
        if not self._arrivals.poll(math.ceil(max(0.0, timeout_s) * 1000)):
            return b""
        return self._take(fd)

    def descriptor(self) -> int | None:
        """See `Link.descriptor`."""
        return self.port.fileno()

    def _take(self, fd: int) -> bytes:
        data = self._read_now(fd)
        # A backlog is taken in one go: while another thread is busy, every call waits for its turn of the interpreter.
        with contextlib.suppress(PortError):  # What came before it went away is not lost; the next call will tell.
            more = data
            while len(more) >= MUCH and len(data) < READ_SIZE:
                more = self._read_now(fd)
                data += more
        return data

    def _read_now(self, fd: int) -> bytes:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PortError(f"{self.name} went away ({error.strerror})") from None
        if not data:
            raise PortError(f"{self.name} went away (hung up)")
        return data

    def interrupt(self) -> None:
        """See `Link.interrupt`."""
        with contextlib.suppress(BlockingIOError):  # Full of wake-ups that wait already.
            os.write(self._wake_write, b"\0")

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        try:
            self.port.write(data)
        except TROUBLE as error:
            raise PortError(f"{self.name} cannot be written to: {error}") from None

    def set_lines(self, *, dtr: bool, rts: bool) -> None:
        """See `Link.set_lines`."""
        if self._lines is None:
            self.port  # noqa: B018  a closed port is the likelier reason, and says so
            raise PortError(f"{self.name} has no DTR and RTS lines, so the board cannot be reset through it")
        try:
            self._lines.set(dtr=dtr, rts=rts)
        except OSError as error:
            raise PortError(f"{self.name} went away while its lines were set ({error.strerror or error})") from None


def _why_not_open(error: BaseException) -> str:
    cause = getattr(error, "errno", None)
    if cause == errno.ENOENT:
        return "is not there; check the cable, the power, and USB pass-through"
    if cause in (errno.EACCES, errno.EPERM):
        return "may not be opened by this user; add the user to the group of the device (often dialout)"
    if cause in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in str(error):
        return IN_USE
    return f"cannot be opened as a serial port ({os.strerror(cause) if cause else error})"


class ModemLines:
    """DTR and RTS, both set with one system call."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def set(self, *, dtr: bool, rts: bool) -> None:
        """Drive the lines. Raises OSError."""
        both = struct.unpack("I", fcntl.ioctl(self._fd, termios.TIOCMGET, struct.pack("I", 0)))[0]
        both &= ~(termios.TIOCM_DTR | termios.TIOCM_RTS)
        both |= (termios.TIOCM_DTR if dtr else 0) | (termios.TIOCM_RTS if rts else 0)
        fcntl.ioctl(self._fd, termios.TIOCMSET, struct.pack("I", both))

    def close(self) -> None:
        """Nothing to free: the descriptor is the port's."""


class CompanionLines(ModemLines):
    """The lines of a pseudo-terminal, which has none of its own: a unix socket `<device>.lines` beside it.

    One byte sets both (bit 0 DTR, bit 1 RTS) and comes back once they are set.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WRITE_TIMEOUT_S)
        self._socket.connect(path)

    def set(self, *, dtr: bool, rts: bool) -> None:
        """Drive the lines and wait until it is done. Raises OSError."""
        self._socket.sendall(bytes([int(dtr) | int(rts) << 1]))
        if not self._socket.recv(1):
            raise ConnectionResetError(errno.ECONNRESET, "the other end closed the line socket")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _modem_lines(name: str, fd: int) -> ModemLines | None:
    try:
        fcntl.ioctl(fd, termios.TIOCMGET, struct.pack("I", 0))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise PortError(f"{name} does not tell the state of its modem lines ({error.strerror})") from None
    else:
        return ModemLines(fd)
    try:
        return CompanionLines(f"{name}.lines")
    except OSError:
        return None
