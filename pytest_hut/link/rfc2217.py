"""A serial port on the network, by RFC 2217: our own client, which waits on events and agrees on each thing once.

It works with pyserial's server, with ser2net, and with esptool's server, which does the reset sequences itself and
acknowledges none of their steps.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from pytest_hut.errors import PortError
from pytest_hut.link import telnet
from pytest_hut.link.telnet import Negotiation, Subnegotiation, com_port, negotiation

CONNECT_S = 5.0
ANSWER_S = 3.0
"""How long the server may take to agree."""

LINES_ANSWER_S = 0.3
"""How long it may take to acknowledge a modem line; esptool's server never does and is not waited for again."""

WRITE_TIMEOUT_S = 10.0
RETRY_S = 0.25
RECEIVE_SIZE = 1 << 16

BAUD_TOLERANCE = 0.03
"""A server may say what it really got; a UART puts up with so much."""

KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
"""A server that lost its power says no good-bye: seconds until asked, between questions, and how many."""

_OFFERS = (
    (telnet.WILL, telnet.BINARY),
    (telnet.DO, telnet.BINARY),
    (telnet.WILL, telnet.SUPPRESS_GO_AHEAD),
    (telnet.DO, telnet.SUPPRESS_GO_AHEAD),
    (telnet.WILL, telnet.COM_PORT),
    (telnet.DO, telnet.COM_PORT),
)
_OUR_OPTIONS = {option for _, option in _OFFERS}


class Rfc2217Link:
    """Implements `Link` on `rfc2217://host:port`; a thread of its own takes apart what arrives."""

    def __init__(self, url: str, baudrate: int) -> None:
        self.name = url
        self._baudrate = baudrate
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        # All below is read and written with `_changed` held.
        self._arrived = bytearray()
        self._interrupted = False
        self._lost = ""
        self._agreed: dict[tuple[int, int], bool] = {}
        """What the server said to our offers."""
        self._answers: dict[int, list[bytes]] = {}
        self._suspended = False
        self._lines: tuple[bool, bool] | None = None
        self._acknowledges_lines = True

    @property
    def baudrate(self) -> int:
        """Bits per second."""
        return self._baudrate

    @baudrate.setter
    def baudrate(self, value: int) -> None:
        changed, self._baudrate = value != self._baudrate, value
        if changed and self._socket is not None:
            self._agree_on_baud()

    def open(self, timeout_s: float) -> None:
        """See `Link.open`. A server that is not there yet is asked again until the time is over."""
        address = _address_of(self.name)
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            try:
                self._open_once(address, max(0.1, min(CONNECT_S, deadline - time.monotonic())))
                return
            except (OSError, PortError) as error:
                self.close()
                if time.monotonic() + RETRY_S >= deadline:
                    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                    raise PortError(f"{self.name} cannot be opened: {reason} (waited {timeout_s:g} s)") from None
                pause.wait(RETRY_S)

    def _open_once(self, address: tuple[str, int], timeout_s: float) -> None:
        connection = socket.create_connection(address, timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setblocking(False)
        with self._changed:
            self._arrived.clear()
            self._lost = ""
            self._agreed.clear()
            self._answers.clear()
            self._suspended = False
            self._lines = None
            self._acknowledges_lines = True
        self._socket = connection
        self._thread = threading.Thread(target=self._run, args=(connection,), name="hut-rfc2217", daemon=True)
        self._thread.start()
        self._send(b"".join(negotiation(*offer) for offer in _OFFERS))
        wanted = (telnet.DO, telnet.COM_PORT)
        if not self._wait_for(lambda: wanted in self._agreed, ANSWER_S) or not self._agreed[wanted]:
            raise PortError(f"{self.name} does not answer as an RFC 2217 server")
        self._command(
            (telnet.SET_DATASIZE, bytes([8])),
            (telnet.SET_PARITY, bytes([telnet.PARITY_NONE])),
            (telnet.SET_STOPSIZE, bytes([telnet.STOP_ONE])),
            (telnet.SET_CONTROL, bytes([telnet.CONTROL_NO_FLOW])),
        )
        self._agree_on_baud()
        self._find_lines()

    def _find_lines(self) -> None:
        """Ask how the lines are, and release them unless they pull nothing: setting them might restart the board."""
        self._lines = self._control_lines(telnet.CONTROL_GET_DTR, telnet.CONTROL_GET_RTS)
        if self._lines is not None and self._lines[0] != self._lines[1]:
            self.set_lines(dtr=False, rts=False)

    def close(self) -> None:
        """See `Link.close`."""
        connection, self._socket = self._socket, None
        thread, self._thread = self._thread, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if thread is not None:
            thread.join()
        if connection is not None:
            connection.close()

    def read(self) -> bytes:
        """See `Link.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._interrupted or self._lost or self._socket is None)
            if self._arrived:
                return self._take()
            if self._interrupted:
                self._interrupted = False
                return b""
            raise self._gone()

    def receive(self, timeout_s: float) -> bytes:
        """See `Link.receive`."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._lost or self._socket is None, timeout_s)
            if self._arrived or not (self._lost or self._socket is None):
                return self._take()
            raise self._gone()

    def descriptor(self) -> int | None:
        """See `Link.descriptor`."""
        return None

    def interrupt(self) -> None:
        """See `Link.interrupt`."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        if self._suspended and not self._wait_for(lambda: not self._suspended, WRITE_TIMEOUT_S):
            raise PortError(f"{self.name} takes nothing: the server asked to wait and never said go on")
        self._send(telnet.escape(data))

    def set_lines(self, *, dtr: bool, rts: bool) -> None:
        """See `Link.set_lines`; both go in one message, DTR first, so that the server sets them without a pause.

        RFC 2217 knows no way to set both at once. From reset (RTS) to boot (DTR) the lines pass a state that pulls
        neither EN nor IO0, which the capacitor on EN bridges as it does for tools that set one after the other.
        """
        before, self._lines = self._lines, (dtr, rts)
        steps = []
        if before is None or before[0] != dtr:
            steps.append(telnet.CONTROL_DTR_ON if dtr else telnet.CONTROL_DTR_OFF)
        if before is None or before[1] != rts:
            steps.append(telnet.CONTROL_RTS_ON if rts else telnet.CONTROL_RTS_OFF)
        if not (dtr or rts):
            steps.reverse()  # RTS alone would be a reset.
        if steps and self._acknowledges_lines:
            self._acknowledges_lines = self._control(*steps) is not None
        elif steps:
            self._send(b"".join(com_port(telnet.SET_CONTROL, bytes([step])) for step in steps))

    def _control(self, *steps: int) -> list[bytes] | None:
        """Send SET-CONTROL commands in one message; return the answers, None when not all come soon."""
        answers: list[bytes] = []
        with self._changed:
            self._answers[telnet.SET_CONTROL] = answers
        self._send(b"".join(com_port(telnet.SET_CONTROL, bytes([step])) for step in steps))
        return answers if self._wait_for(lambda: len(answers) >= len(steps), LINES_ANSWER_S) else None

    def _control_lines(self, *questions: int) -> tuple[bool, bool] | None:
        said = {answer[0] for answer in self._control(*questions) or () if answer}
        dtr = said & {telnet.CONTROL_DTR_ON, telnet.CONTROL_DTR_OFF}
        rts = said & {telnet.CONTROL_RTS_ON, telnet.CONTROL_RTS_OFF}
        if len(dtr) != 1 or len(rts) != 1:
            return None
        return telnet.CONTROL_DTR_ON in dtr, telnet.CONTROL_RTS_ON in rts

    def _agree_on_baud(self) -> None:
        [answer] = self._command((telnet.SET_BAUDRATE, self._baudrate.to_bytes(4, "big")))
        actual = int.from_bytes(answer[:4], "big")
        if abs(actual - self._baudrate) > BAUD_TOLERANCE * self._baudrate:
            raise PortError(f"{self.name} does not do {self._baudrate} baud: the server offers {actual}")

    def _command(self, *commands: tuple[int, bytes]) -> list[bytes]:
        """Send commands and return the server's answers, in order. Raises PortError when one does not come."""
        with self._changed:
            for number, _ in commands:
                self._answers.pop(number, None)
        self._send(b"".join(com_port(number, value) for number, value in commands))
        if not self._wait_for(lambda: all(self._answers.get(number) for number, _ in commands), ANSWER_S):
            raise PortError(f"{self.name} did not answer a setting within {ANSWER_S:g} s")
        return [self._answers[number][0] for number, _ in commands]

    def _wait_for(self, agreed: Callable[[], object], timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: agreed() or self._lost, timeout_s)
            if self._lost:
                raise self._gone()
            return bool(agreed())

    def _send(self, data: bytes) -> None:
        unsent = memoryview(data)
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        with self._sending:
            while unsent:
                connection = self._socket
                if connection is None:
                    raise PortError(f"{self.name} is not open")
                try:
                    unsent = unsent[connection.send(unsent) :]
                except BlockingIOError:
                    left = deadline - time.monotonic()
                    poller = select.poll()
                    poller.register(connection, select.POLLOUT)
                    if left <= 0 or not poller.poll(left * 1000):
                        raise PortError(f"{self.name} takes nothing for {WRITE_TIMEOUT_S:g} s") from None
                except OSError as error:
                    raise PortError(f"{self.name} cannot be written to: {error.strerror or error}") from None

    def _run(self, connection: socket.socket) -> None:
        """Take apart what arrives until the connection ends."""
        parser = telnet.TelnetParser()
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        reason = "the server closed the connection"
        try:
            while True:
                poller.poll()
                chunk = connection.recv(RECEIVE_SIZE)
                if not chunk:
                    break
                items = list(parser.feed(chunk))
                with self._changed:
                    for item in items:
                        self._note(item)
                    self._changed.notify_all()
                for item in items:
                    if isinstance(item, Negotiation):
                        self._reply(item)
        except (OSError, ValueError, PortError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def _note(self, item: bytes | Negotiation | Subnegotiation) -> None:
        match item:
            case bytes():
                self._arrived += item
            case Negotiation(verb=telnet.DO | telnet.WILL):
                self._agreed[item.verb, item.option] = True
            case Negotiation(verb=telnet.DONT):
                self._agreed[telnet.DO, item.option] = False
            case Negotiation(verb=telnet.WONT):
                self._agreed[telnet.WILL, item.option] = False
            case Subnegotiation(option=telnet.COM_PORT) if item.data:
                number = item.data[0] - telnet.FROM_SERVER
                if number in (telnet.FLOWCONTROL_SUSPEND, telnet.FLOWCONTROL_RESUME):
                    self._suspended = number == telnet.FLOWCONTROL_SUSPEND
                else:
                    self._answers.setdefault(number, []).append(item.data[1:])

    def _reply(self, asked: Negotiation) -> None:
        """Refuse what we did not offer; agreeing to what we did is said already."""
        if asked.option in _OUR_OPTIONS:
            return
        if asked.verb == telnet.WILL:
            self._send(negotiation(telnet.DONT, asked.option))
        elif asked.verb == telnet.DO:
            self._send(negotiation(telnet.WONT, asked.option))

    def _take(self) -> bytes:
        data = bytes(self._arrived)
        self._arrived.clear()
        return data

    def _gone(self) -> PortError:
        if self._socket is None:
            return PortError(f"{self.name} is not open")
        return PortError(f"{self.name} went away ({self._lost})")


def _address_of(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise PortError(f"{url} is no address: {error}") from None
    if not host or not port:
        raise PortError(f"{url} is no address; write rfc2217://host:port")
    return host, port
