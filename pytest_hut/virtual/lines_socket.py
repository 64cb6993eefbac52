"""The modem lines of a virtual tty: a unix stream socket beside the device.

A request is one byte, bit 0 DTR and bit 1 RTS, both set at once; it is answered with the same byte after it has been
applied. When the last connection closes, both lines are released.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from pathlib import Path

from pytest_hut.virtual.circuit import RELEASED, ModemLines
from pytest_hut.virtual.reactor import Reactor

_DTR_BIT = 1
_RTS_BIT = 2
_SUN_PATH_BYTES = 107


def lines_path(device: Path) -> Path:
    """Where the lines of the virtual tty at `device` are served."""
    return device.with_name(device.name + ".lines")


def fits_unix_socket(path: Path) -> bool:
    """Whether the kernel accepts `path` as a unix socket's address."""
    return len(bytes(path)) <= _SUN_PATH_BYTES


class LinesSocket:
    """Serves the lines of one tty while it is there."""

    def __init__(self, device: Path, reactor: Reactor, apply: Callable[[ModemLines], None]) -> None:
        self._path = lines_path(device)
        self._reactor = reactor
        self._apply = apply
        self._listener: socket.socket | None = None
        self._clients: set[socket.socket] = set()

    def appear(self) -> None:
        """Create the socket; nothing if it is there."""
        if self._listener is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        listener.listen()
        listener.setblocking(False)
        self._listener = listener
        self._reactor.register(listener.fileno(), select.EPOLLIN, self._accept)

    def vanish(self) -> None:
        """Remove the socket and hang up on all clients."""
        if self._listener is None:
            return
        self._path.unlink(missing_ok=True)
        self._reactor.unregister(self._listener.fileno())
        self._listener.close()
        self._listener = None
        for client in list(self._clients):
            self._drop(client)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:  # gone again before we looked
            return
        client.setblocking(False)
        self._clients.add(client)
        self._reactor.register(client.fileno(), select.EPOLLIN, lambda: self._serve(client))

    def _serve(self, client: socket.socket) -> None:
        try:
            requests = client.recv(256)
            for request in requests:
                self._apply(ModemLines(dtr=bool(request & _DTR_BIT), rts=bool(request & _RTS_BIT)))
                client.send(bytes([request]))
        except BlockingIOError:
            return
        except OSError:  # the client went without reading its answers
            requests = b""
        if not requests:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if client not in self._clients:
            return
        self._clients.discard(client)
        self._reactor.unregister(client.fileno())
        client.close()
        if not self._clients:
            self._apply(RELEASED)
