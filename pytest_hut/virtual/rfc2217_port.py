"""The network face of a virtual board: RFC 2217 (telnet COM-PORT-OPTION) on loopback.

pyserial's `PortManager` does the telnet and COM-PORT-OPTION negotiation; here are the socket, the escaping and the
serial-port-like object it works on.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from pytest_hut.virtual.circuit import RELEASED, ModemLines, SequentialLines
from pytest_hut.virtual.reactor import Reactor

if TYPE_CHECKING:
    from serial.rfc2217 import PortManager

_IAC = b"\xff"
_RECEIVE_BYTES = 4096
_UNSENT_LIMIT = 65536
"""Escaped bytes waiting for a client that is slow to read; as much as a serial driver buffers."""
_UNHEARD_LIMIT = 4096
"""Client's bytes waiting for the chip; beyond that the client has to wait."""
_LEAVING_S = 0.2
"""How long a new client waits for the one before it to be gone."""


class _SerialSide:
    """What `PortManager` takes for the serial port: settings are kept, modem lines acted upon."""

    bytesize = 8
    parity = "N"
    stopbits = 1
    xonxoff = False
    rtscts = False
    break_condition = False
    cts = dsr = ri = cd = False

    def __init__(self, apply: Callable[[ModemLines], None], discard_unheard: Callable[[], None]) -> None:
        self.baudrate = 115200
        self.lines = SequentialLines()
        self._apply = apply
        self._discard_unheard = discard_unheard

    @property
    def dtr(self) -> bool:
        return self.lines.asked.dtr

    @dtr.setter
    def dtr(self, on: bool) -> None:
        self._act(self.lines.change(self.lines.asked._replace(dtr=bool(on)), time.monotonic()))

    @property
    def rts(self) -> bool:
        return self.lines.asked.rts

    @rts.setter
    def rts(self, on: bool) -> None:
        self._act(self.lines.change(self.lines.asked._replace(rts=bool(on)), time.monotonic()))

    def expire(self) -> None:
        """Apply a line change that was held back for long enough."""
        self._act(self.lines.expire(time.monotonic()))

    def reset_input_buffer(self) -> None:
        """Nothing to do: everything sent so far precedes the acknowledgement, at which the client drops it."""

    def reset_output_buffer(self) -> None:
        """Drop what the client sent and the chip has not heard yet."""
        self._discard_unheard()

    def _act(self, lines: ModemLines | None) -> None:
        if lines is not None:
            self._apply(lines)


class _Client:
    """One connection: its telnet state, and the bytes on their way in both directions."""

    def __init__(self, connection: socket.socket, apply: Callable[[ModemLines], None], heard: Callable[[], None]):
        # loaded when a client comes: the server starts faster without
        from serial.rfc2217 import M_NORMAL, PortManager

        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._connection = connection
        self._heard = heard
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._room = threading.Condition()
        self._unsent = bytearray()
        self._unheard = bytearray()
        self.open = True
        self.overrun = False
        self._normal_mode = M_NORMAL
        self.serial = _SerialSide(apply, self._discard_unheard)
        self._manager: PortManager = PortManager(cast(Any, self.serial), cast(Any, self))

    def write(self, data: bytes) -> None:
        """Queue telnet bytes that are escaped already (`PortManager` calls this)."""
        with self._room:
            self._unsent += data
            self._flush_soon()

    def offer(self, data: bytes) -> bool:
        """Queue the chip's bytes; False if the client has to read first."""
        with self._room:
            if len(self._unsent) >= _UNSENT_LIMIT:
                return False
            self._unsent += data.replace(_IAC, _IAC + _IAC)
            self._flush_soon()
            return True

    def wait_for_room(self, timeout_s: float | None, stopped: Callable[[], bool]) -> bool:
        """Wait until `offer` would accept, the client leaves or `stopped`; False if the time is over."""
        with self._room:
            return self._room.wait_for(
                lambda: len(self._unsent) < _UNSENT_LIMIT or not self.open or stopped(), timeout_s
            )

    def interrupt(self) -> None:
        """Make `wait_for_room` look at `stopped` again."""
        with self._room:
            self._room.notify_all()

    def take(self, limit: int) -> bytes:
        """Return up to `limit` of the client's bytes."""
        with self._room:
            was_full = len(self._unheard) >= _UNHEARD_LIMIT
            taken = bytes(self._unheard[:limit])
            del self._unheard[:limit]
            if was_full and len(self._unheard) < _UNHEARD_LIMIT and self.open:
                os.eventfd_write(self._wake, 1)
            return taken

    def hang_up(self) -> None:
        """End `serve`."""
        with self._room:
            if self.open:
                self.open = False
                self._room.notify_all()
                os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        """Move bytes until the client leaves or `hang_up`; runs on the connection's thread."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        try:
            while self.open:
                poller.register(self._connection, self._interest())
                ready = dict(poller.poll(self._hold_back_ms()))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                events = ready.get(self._connection.fileno(), 0)
                with self._room:
                    self._flush()
                if events & ~select.POLLOUT and not self._receive():
                    break
                self.serial.expire()
        except OSError:  # the connection broke: the same as leaving
            pass
        finally:
            self._end()

    def _end(self) -> None:
        with self._room:
            self.open = False
            self._room.notify_all()
            self._connection.close()
            os.close(self._wake)

    def _interest(self) -> int:
        with self._room:
            reading = select.POLLIN if len(self._unheard) < _UNHEARD_LIMIT else 0
            return reading | (select.POLLOUT if self._unsent else 0)

    def _hold_back_ms(self) -> float | None:
        due = self.serial.lines.due
        return None if due is None else max(0.0, due - time.monotonic()) * 1000

    def _receive(self) -> bool:
        try:
            received = self._connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        if not received:
            return False
        data = self._decode(received)
        if data:
            with self._room:
                self._unheard += data
            self._heard()
        return True

    def _decode(self, received: bytes) -> bytes:
        """Take the telnet commands out. `PortManager.filter` goes byte by byte, so it only gets what may be one."""
        data = bytearray()
        position = 0
        while position < len(received):
            if self._plain():
                command = received.find(_IAC, position)
                end = len(received) if command < 0 else command
                data += received[position:end]
                position = end
            if position < len(received):
                data += b"".join(self._manager.filter(received[position : position + 1]))
                position += 1
        return bytes(data)

    def _plain(self) -> bool:
        return bool(self._manager.mode == self._normal_mode) and self._manager.suboption is None

    def _flush(self) -> None:
        if not self._unsent or not self.open:
            return
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            pass
        except OSError:  # the reading side notices the end of the connection
            self._unsent.clear()
        else:
            del self._unsent[:sent]
        self._room.notify_all()

    def _flush_soon(self) -> None:
        self._flush()
        if self._unsent and self.open:
            os.eventfd_write(self._wake, 1)

    def _discard_unheard(self) -> None:
        with self._room:
            self._unheard.clear()


class Rfc2217Port:
    """Implements `uart.HostPort` for one TCP client at a time; a second one is hung up on."""

    def __init__(
        self, reactor: Reactor, apply: Callable[[ModemLines], None], heard: Callable[[], None], tcp_port: int = 0
    ) -> None:
        """Listen on 127.0.0.1; `tcp_port` 0 lets the kernel choose.

        `apply` sets the board's modem lines, `heard` is called when the client's bytes wait in `receive`. Raises
        OSError if the port is taken.
        """
        self._reactor = reactor
        self._apply = apply
        self._heard = heard
        self._present = False
        self._claim = threading.Lock()
        self._client: _Client | None = None
        self._listener = socket.create_server(("127.0.0.1", tcp_port))
        self._listener.setblocking(False)
        reactor.register(self._listener.fileno(), select.EPOLLIN, self._accept)

    @property
    def url(self) -> str:
        """pyserial's URL of the port."""
        return f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"

    def appear(self) -> None:
        """Serve clients from now on."""
        self._present = True

    def vanish(self) -> None:
        """Hang up on the client and on everybody who comes meanwhile."""
        self._present = False
        if (client := self._client) is not None:
            client.hang_up()

    def close(self) -> None:
        """Vanish for good and wait for the client's thread."""
        self.vanish()
        self._reactor.unregister(self._listener.fileno())
        self._listener.close()
        with self._claim:
            self._client = None

    def host_baud(self) -> int | None:
        """See `uart.HostPort.host_baud`."""
        client = self._client
        return client.serial.baudrate if client is not None else None

    def send(self, data: bytes, patience_s: float | None, stopped: Callable[[], bool]) -> None:
        """See `uart.HostPort.send`."""
        client = self._client
        if client is None:
            return
        while client.open and not client.offer(data):
            if stopped() or client.overrun:
                return
            client.overrun = not client.wait_for_room(patience_s, stopped)
        client.overrun = False

    def receive(self, limit: int) -> bytes:
        """See `uart.HostPort.receive`."""
        client = self._client
        return client.take(limit) if client is not None else b""

    def interrupt(self) -> None:
        """See `uart.HostPort.interrupt`."""
        if (client := self._client) is not None:
            client.interrupt()

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), name="rfc2217 client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if self._claim.acquire(timeout=_LEAVING_S):
                try:
                    self._client = client = _Client(connection, self._apply, self._heard)
                    if not self._present:
                        client.hang_up()
                    client.serve()
                    self._client = None
                    self._apply(RELEASED)
                finally:
                    self._claim.release()
