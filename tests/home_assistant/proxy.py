"""A TCP proxy on loopback that counts the HTTP requests through it, and can act on one before it is passed on."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

REQUEST_LINE = re.compile(rb"(?:GET|POST) (\S+) HTTP/1\.1\r\n")


class CountingProxy:
    """Passes everything on to a port; use it as a context manager."""

    def __init__(self, target_port: int) -> None:
        self.requests: list[str] = []
        """The paths asked for, in order."""
        self._target_port = target_port
        self._hooks: dict[str, Callable[[], object]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def when(self, path_end: str, do: Callable[[], object]) -> None:
        """Before the next request whose path ends so is passed on, call `do`."""
        self._hooks[path_end] = do

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:  # The server is down, and so is the way to it.
            client.close()
            return
        self._open += [client, server]
        threading.Thread(target=_copy, args=(server, client, bytes), daemon=True).start()
        _copy(client, server, self._note)

    def _note(self, data: bytes) -> bytes:
        for path in REQUEST_LINE.findall(data):
            self.requests.append(path.decode())
            for path_end in [end for end in self._hooks if path.decode().endswith(end)]:
                self._hooks.pop(path_end)()
        return data


def _copy(source: socket.socket, sink: socket.socket, look: Callable[[bytes], bytes]) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(look(data))
    except OSError:  # One end is gone; the other is told below.
        pass
    for end in (sink, source):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
