"""Gives a virtual board's pseudo-terminal DTR and RTS, for programs that know nothing of virtual boards.

On the PYTHONPATH of a process whose `HUT_BENCHMARK_LINES` names the board's `<device>.lines` socket, the ioctls that
read and set modem lines work on every pseudo-terminal as they do on a USB adapter, where both lines change at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Any

LINES = os.environ.get("HUT_BENCHMARK_LINES", "")
BOTH = termios.TIOCM_DTR | termios.TIOCM_RTS

system_ioctl: Any = fcntl.ioctl


class Lines:
    """The lines behind the socket, which is opened when they are first set."""

    def __init__(self) -> None:
        self._asserted = 0
        self._socket: socket.socket | None = None

    def ioctl(self, fd: Any, request: int, argument: Any = 0, *more: Any) -> Any:
        """Do as `fcntl.ioctl`, and what that cannot do with the modem lines of a pseudo-terminal."""
        try:
            return system_ioctl(fd, request, argument, *more)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            word = struct.unpack("I", argument)[0] if isinstance(argument, bytes) and len(argument) == 4 else 0
            match request:
                case termios.TIOCMGET:
                    pass
                case termios.TIOCMSET:
                    self._set(word)
                case termios.TIOCMBIS:
                    self._set(self._asserted | word)
                case termios.TIOCMBIC:
                    self._set(self._asserted & ~word)
                case _:
                    raise
            return struct.pack("I", self._asserted)

    def _set(self, lines: int) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(LINES)
        self._asserted = lines & BOTH
        dtr, rts = bool(lines & termios.TIOCM_DTR), bool(lines & termios.TIOCM_RTS)
        self._socket.sendall(bytes([dtr | rts << 1]))
        self._socket.recv(1)


if LINES:
    fcntl.ioctl = Lines().ioctl
