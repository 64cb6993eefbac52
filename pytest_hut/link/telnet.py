"""The words of RFC 2217 (serial port control over telnet) on top of RFC 854/855, and a parser for what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

IAC = 255
DONT, DO, WONT, WILL, SB, SE = 254, 253, 252, 251, 250, 240

BINARY, SUPPRESS_GO_AHEAD, COM_PORT = 0, 3, 44

SET_BAUDRATE, SET_DATASIZE, SET_PARITY, SET_STOPSIZE, SET_CONTROL = 1, 2, 3, 4, 5
FLOWCONTROL_SUSPEND, FLOWCONTROL_RESUME, PURGE_DATA = 8, 9, 12
FROM_SERVER = 100
"""The server answers a command with this much more."""

CONTROL_NO_FLOW = 1
CONTROL_GET_DTR, CONTROL_DTR_ON, CONTROL_DTR_OFF = 7, 8, 9
CONTROL_GET_RTS, CONTROL_RTS_ON, CONTROL_RTS_OFF = 10, 11, 12
PARITY_NONE, STOP_ONE = 1, 1

MOST_SUBNEGOTIATION = 1024
"""Bytes of a subnegotiation; a server that goes on for longer is not speaking telnet."""


@dataclass(frozen=True)
class Negotiation:
    """The server says WILL, WONT, DO or DONT about an option."""

    verb: int
    option: int


@dataclass(frozen=True)
class Subnegotiation:
    """The server sends an option's parameters."""

    option: int
    data: bytes


def escape(data: bytes) -> bytes:
    """Return data as it goes through telnet."""
    return data.replace(b"\xff", b"\xff\xff")


def negotiation(verb: int, option: int) -> bytes:
    """Return WILL, WONT, DO or DONT as bytes."""
    return bytes((IAC, verb, option))


def com_port(command: int, value: bytes) -> bytes:
    """Return a COM-PORT-OPTION command as bytes."""
    return bytes((IAC, SB, COM_PORT, command)) + escape(value) + bytes((IAC, SE))


class TelnetParser:
    """Takes what the server sends apart, whatever the chunks it arrives in."""

    def __init__(self) -> None:
        self._held = b""
        """An unfinished telnet command."""

    def feed(self, chunk: bytes) -> Iterator[bytes | Negotiation | Subnegotiation]:
        """Yield data, negotiations and subnegotiations in order. Raises ValueError for what is no telnet."""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        position = 0
        while position < len(chunk):
            at = chunk.find(b"\xff", position)
            if at < 0:
                yield chunk[position:]
                return
            if at > position:
                yield chunk[position:at]
            end, item = _command(chunk, at)
            if end is None:
                self._held = chunk[at:]
                if len(self._held) > MOST_SUBNEGOTIATION:
                    raise ValueError("a telnet subnegotiation does not end")
                return
            if item is not None:
                yield item
            position = end


def _command(chunk: bytes, at: int) -> tuple[int | None, bytes | Negotiation | Subnegotiation | None]:
    """Read the command at `at`: where it ends (None: not yet) and what it says (None: nothing for us)."""
    if len(chunk) < at + 2:
        return None, None
    verb = chunk[at + 1]
    if verb == IAC:
        return at + 2, b"\xff"
    if verb in (WILL, WONT, DO, DONT):
        return (at + 3, Negotiation(verb, chunk[at + 2])) if len(chunk) >= at + 3 else (None, None)
    if verb != SB:
        return at + 2, None
    end = at + 2
    while True:
        end = chunk.find(b"\xff", end)
        if end < 0 or end + 1 >= len(chunk):
            return None, None
        if chunk[end + 1] == SE:
            break
        end += 2
    body = chunk[at + 2 : end].replace(b"\xff\xff", b"\xff")
    return end + 2, Subnegotiation(body[0], body[1:]) if body else None
