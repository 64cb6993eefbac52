"""The local device of a virtual board: a pseudo-terminal behind a by-id style path.

A pseudo-terminal has no modem lines (TIOCMSET answers ENOTTY); `lines_socket` serves them next to the device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inotify_simple import INotify, flags

from pytest_hut.virtual.reactor import Reactor

_TCGETS2 = 0x802C542A
"""`_IOR('T', 0x2A, struct termios2)` of asm-generic Linux: reads rates that have no B constant, too."""
_TERMIOS2 = struct.Struct("4I20B2I")
_INTERRUPTED = 1


class TtyPort:
    """Implements `uart.HostPort` on a pseudo-terminal that `appear`s at, and can `vanish` from, `path`.

    `on_appear` gets the descriptor at which the host's bytes arrive.
    """

    def __init__(self, path: Path, reactor: Reactor, on_appear: Callable[[int], None]) -> None:
        self.path = path
        self._reactor = reactor
        self._on_appear = on_appear
        self._lock = threading.Lock()
        self._master: int | None = None
        self._device = ""
        self._presence = select.poll()
        self._opens: INotify
        self._opened = False
        """Somebody opened it while it was cleaned, which `_opens` does not tell any more."""
        self._overrun = False
        self._interrupt = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._room = select.epoll()
        self._room.register(self._interrupt, select.EPOLLIN)

    def appear(self) -> None:
        """Create the device and its path; nothing if it is there."""
        with self._lock:
            if self._master is None:
                self._create()

    def vanish(self) -> None:
        """Take path and device away: whoever has it open gets end of file, and EIO on writing."""
        with self._lock:
            if self._master is not None:
                self._destroy()
        self.interrupt()

    def close(self) -> None:
        """Vanish for good and free the descriptors; nobody may be sending."""
        self.vanish()
        self._room.close()
        os.close(self._interrupt)

    def host_baud(self) -> int | None:
        """See `uart.HostPort.host_baud`."""
        with self._lock:
            if self._master is None or not self._host_present():
                return None
            settings = fcntl.ioctl(self._master, _TCGETS2, bytes(_TERMIOS2.size))
            return int(_TERMIOS2.unpack(settings)[-1]) or None

    def receive(self, limit: int) -> bytes:
        """See `uart.HostPort.receive`."""
        with self._lock:
            if self._master is None:
                return b""
            try:
                return os.read(self._master, limit)
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno == errno.EIO:  # nobody has it open
                    return b""
                raise

    def send(self, data: bytes, patience_s: float | None, stopped: Callable[[], bool]) -> None:
        """See `uart.HostPort.send`."""
        unsent = memoryview(data)
        while True:
            with self._lock:
                if self._master is None or not self._host_present():
                    return
                try:
                    written = os.write(self._master, unsent)
                except BlockingIOError:
                    written = 0
            unsent = unsent[written:]
            if written:
                self._overrun = False
            if not unsent or self._overrun:
                return
            with suppress(BlockingIOError):
                os.eventfd_read(self._interrupt)
            if stopped():
                return
            if not self._room.poll(patience_s):
                self._overrun = True
                return

    def interrupt(self) -> None:
        """See `uart.HostPort.interrupt`."""
        os.eventfd_write(self._interrupt, _INTERRUPTED)

    # -- inside; all with the lock held

    def _create(self) -> None:
        master, slave = os.openpty()
        self._device = os.ttyname(slave)
        _make_raw(slave)
        os.close(slave)
        os.set_blocking(master, False)
        self._master = master
        self._opened = False
        self._opens = INotify()
        self._opens.add_watch(self._device, flags.OPEN)
        self._presence.register(master, 0)
        self._room.register(master, select.EPOLLOUT)
        self._reactor.register(master, select.EPOLLET, self._on_hang_up)
        self._on_appear(master)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._device)
        fresh.replace(self.path)

    def _destroy(self) -> None:
        assert self._master is not None
        self.path.unlink(missing_ok=True)
        self._reactor.unregister(self._master)
        self._presence.unregister(self._master)
        os.close(self._master)
        self._master = None
        self._opens.close()

    def _host_present(self) -> bool:
        return not self._presence.poll(0)

    def _on_hang_up(self) -> None:
        """The last host has left: what it did not read must not greet the next one.

        Unlike a real driver, a pseudo-terminal keeps unread bytes after the last close, and the exclusive mode, too.
        """
        with self._lock:
            if self._master is None or self._host_present():
                return
            if not self._opened and not self._opens.read(timeout=0):
                return  # Nobody has had it open since it was cleaned: this is the echo of the cleaning.
            try:
                slave = os.open(self._device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            except OSError:  # left in exclusive mode, so no host could open it again either
                self._destroy()
                self._create()
                return
            fcntl.ioctl(slave, termios.TIOCNXCL)
            termios.tcflush(self._master, termios.TCOFLUSH)
            termios.tcflush(slave, termios.TCIFLUSH)
            os.close(slave)
            self._opens.read(timeout=0)  # Our own look at it.
            self._opened = self._host_present()


def _make_raw(slave: int) -> None:
    """Nothing echoed or translated, and the rate that Linux gives a USB serial port before anybody sets one."""
    tty.setraw(slave)
    settings = termios.tcgetattr(slave)
    settings[2] |= termios.CLOCAL | termios.CREAD
    settings[4] = settings[5] = termios.B9600
    termios.tcsetattr(slave, termios.TCSANOW, settings)
