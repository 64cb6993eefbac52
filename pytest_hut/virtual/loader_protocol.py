"""The words of Espressif's serial protocol: requests, responses, status codes.

Source: esptool's documentation, "Serial Protocol", and the status codes its error texts are keyed by. All fields are
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from pytest_hut.virtual import slip
from pytest_hut.virtual.machine import ResetCause, Uart

_HEADER = struct.Struct("<BBHI")
_REQUEST, _RESPONSE = 0, 1
_BLOCK_HEADER_SIZE = 16
_CHECKSUM_SEED = 0xEF


class Op(IntEnum):
    """Command identifiers."""

    FLASH_BEGIN = 0x02
    FLASH_DATA = 0x03
    FLASH_END = 0x04
    MEM_BEGIN = 0x05
    MEM_END = 0x06
    MEM_DATA = 0x07
    SYNC = 0x08
    WRITE_REG = 0x09
    READ_REG = 0x0A
    SPI_SET_PARAMS = 0x0B
    SPI_ATTACH = 0x0D
    READ_FLASH_SLOW = 0x0E
    CHANGE_BAUDRATE = 0x0F
    FLASH_DEFL_BEGIN = 0x10
    FLASH_DEFL_DATA = 0x11
    FLASH_DEFL_END = 0x12
    SPI_FLASH_MD5 = 0x13
    GET_SECURITY_INFO = 0x14
    ERASE_FLASH = 0xD0
    ERASE_REGION = 0xD1
    READ_FLASH = 0xD2
    RUN_USER_CODE = 0xD3


class Failure(Enum):
    """What can be wrong with a command: (the ROM's error code, the stub's)."""

    BAD_PARAMETER = (0x01, 0xC2)
    BAD_FORMAT = (0x05, 0xC0)
    BAD_DIRECTION = (0x05, 0xC3)
    UNKNOWN_COMMAND = (0x05, 0xFF)
    NOT_STARTED = (0x06, 0xC6)
    OUT_OF_SEQUENCE = (0x06, 0xC8)
    CHECKSUM = (0x07, 0xC1)
    FLASH_WRITE = (0x08, 0xC4)
    FLASH_READ = (0x09, 0xC4)
    READ_LENGTH = (0x0A, 0xC0)
    INFLATE = (0x0B, 0xC7)
    TOO_MUCH_DATA = (0x0D, 0xC9)
    NOT_ENOUGH_DATA = (0x0E, 0xC8)

    @property
    def rom_status(self) -> bytes:
        """The four status bytes of a ROM response."""
        return bytes((1, self.value[0], 0, 0))

    @property
    def stub_status(self) -> bytes:
        """The two status bytes of a stub response."""
        return bytes((self.value[1], 0))


ROM_SUCCESS = bytes(4)
STUB_SUCCESS = bytes(2)


class CommandFailed(Exception):
    """A command cannot be carried out; the host is told why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.name)
        self.failure = failure


@dataclass(frozen=True)
class Request:
    """One command of the host."""

    op: int
    checksum: int
    data: bytes

    def words(self, layout: str) -> tuple[Any, ...]:
        """Unpack the start of the data; raises CommandFailed when there is less of it."""
        if len(self.data) < struct.calcsize(layout):
            raise CommandFailed(Failure.BAD_FORMAT)
        return struct.unpack_from(layout, self.data)

    def block(self) -> tuple[int, bytes]:
        """Return (sequence number, payload) of a `..._DATA` command; raises CommandFailed when it is damaged."""
        size, number = self.words("<II8x")
        payload = self.data[_BLOCK_HEADER_SIZE:]
        if size != len(payload):
            raise CommandFailed(Failure.BAD_FORMAT)
        if checksum(payload) != self.checksum:
            raise CommandFailed(Failure.CHECKSUM)
        return number, payload


@dataclass(frozen=True)
class Reply:
    """What a successful command answers, and what happens after the answer is on the wire."""

    value: int = 0
    data: bytes = b""
    copies: int = 1
    then: Callable[[], ResetCause | None] | None = None


def parse_request(packet: bytes) -> Request:
    """Read a packet; raises CommandFailed (BAD_FORMAT, BAD_DIRECTION) for one that is no request."""
    if len(packet) < _HEADER.size:
        raise CommandFailed(Failure.BAD_FORMAT)
    direction, op, size, check = _HEADER.unpack_from(packet)
    if direction != _REQUEST:
        raise CommandFailed(Failure.BAD_DIRECTION)
    data = packet[_HEADER.size :]
    if size != len(data):
        raise CommandFailed(Failure.BAD_FORMAT)
    return Request(op, check, data)


def response(op: int, value: int, data: bytes) -> bytes:
    """Return the packet that answers `op`; `data` ends with the status bytes."""
    return _HEADER.pack(_RESPONSE, op, len(data), value) + data


def checksum(payload: bytes) -> int:
    """XOR of all bytes and the seed, by folding one big integer in halves: no loop over bytes."""
    folded = int.from_bytes(payload, "little")
    size = len(payload)
    while size > 1:
        size = (size + 1) // 2
        upper = folded >> (8 * size)
        folded ^= upper ^ (upper << (8 * size))
    return folded ^ _CHECKSUM_SEED


class PacketLink:
    """Packets over the UART, with the ROM's baud rate detection until `baud_found`."""

    def __init__(self, uart: Uart) -> None:
        self._uart = uart
        self._decoder = slip.SlipDecoder()
        self._received: list[bytes] = []
        self.baud_found = False

    def receive(self) -> bytes:
        """Wait for a packet. Raises ChipStopped."""
        while not self._received:
            chunk = self._uart.read(None)
            if not self.baud_found:
                # What came at another rate is lost, but its edges told the rate for the host's next try.
                self._uart.adopt_host_baud()
            self._received = self._decoder.feed(chunk)[::-1]
        return self._received.pop()

    def put_back(self, packet: bytes) -> None:
        """Let `receive` return this packet next."""
        self._received.append(packet)

    def send(self, packet: bytes, copies: int = 1) -> None:
        """Send a packet. Raises ChipStopped."""
        self._uart.write(slip.encode(packet) * copies)

    def change_baud(self, baud: int) -> None:
        """Talk at another rate from now on; what is half received is noise."""
        self._uart.baud = baud
        self._decoder.reset()
        self._received.clear()
