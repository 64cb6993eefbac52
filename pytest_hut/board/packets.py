"""esptool's loader classes with our own packet layer: same commands, no formatting for a trace that is off.

Source of the framing: esptool's documentation, "Serial Protocol". esptool describes every packet in hexadecimal before
it asks whether anybody wants to read that, computes checksums byte by byte, and reads with time-outs that some ports
can only change slowly; nearly all the processor time of a write goes there.
"""

from __future__ import annotations

import struct
import time
from functools import cache
from typing import Any

from pytest_hut.board.framing import PacketReader, encode
from pytest_hut.board.lent_port import LentPort

_HEADER = struct.Struct("<BBHI")
_RESPONSE = 1

CHECKSUM_SEED = 0xEF

MOST_ANSWERS = 100
"""So many answers to earlier commands (SYNC is answered eight times) are passed over."""

UNKNOWN_COMMAND = 0x05
"""The ROM's error code for a message that it does not understand."""

REFUSALS = 8
"""So often does a ROM refuse a command that it does not know."""
SETTLE_S = 0.2
"""How long that may take."""


def checksum(data: bytes, state: int = CHECKSUM_SEED) -> int:
    """XOR of all bytes and `state`, by folding one large number in halves."""
    folded = int.from_bytes(data, "little")
    size = len(data)
    while size > 1:
        size = (size + 1) // 2
        upper = folded >> (8 * size)
        folded ^= upper ^ (upper << (8 * size))
    return folded ^ state


class Packets:
    """Replaces the packet layer of an esptool loader class it is mixed in before. `_port` must be a LentPort."""

    _port: LentPort
    ESP_CMDS: dict[str, int]

    @property
    def _packets(self) -> PacketReader:
        return self._port.packets

    def trace(self, message: str, newline: bool = False) -> None:
        """Nobody reads it."""

    @staticmethod
    def checksum(data: bytes, state: int = CHECKSUM_SEED) -> int:
        """See `checksum`."""
        return checksum(data, state)

    def get_usb_vid_pid(self) -> tuple[None, None]:
        """What esptool chooses reset sequences by; ours are told by the configuration."""
        return None, None

    def write(self, packet: bytes) -> None:
        """Send a packet. Raises PortError, FlashError."""
        self._port.write(encode(packet))

    def read(self) -> bytes:
        """Wait for a packet, as long as the port's time-out says. Raises FatalError, PortError, FlashError."""
        return self._read(self._port.timeout)

    def flush_input(self) -> None:
        """Forget everything that has arrived."""
        self._port.reset_input_buffer()

    def command(
        self, op: int | None = None, data: bytes = b"", chk: int = 0, wait_response: bool = True, timeout: float = 3.0
    ) -> Any:
        """Send a command and return (value, data) of its answer; None without waiting for one.

        Raises:
            FatalError: no answer within `timeout` seconds, or a refusal.
        """
        from esptool.util import FatalError, UnsupportedCommandError

        if op is not None:
            self.write(_HEADER.pack(0, op, len(data), chk) + data)
        if not wait_response:
            return None
        deadline = time.monotonic() + timeout
        for _ in range(MOST_ANSWERS):
            packet = self._read(deadline - time.monotonic())
            if len(packet) < _HEADER.size or packet[0] != _RESPONSE:
                continue
            _, answered, _, value = _HEADER.unpack_from(packet)
            body = packet[_HEADER.size :]
            if op is None or answered == op:
                return value, body
            if len(body) > 1 and body[0] and body[1] == UNKNOWN_COMMAND:
                self._drain()
                raise UnsupportedCommandError(self, op)
        raise FatalError("the chip's answers do not match the command")

    def _read(self, timeout: float) -> bytes:
        from esptool.util import FatalError

        deadline = time.monotonic() + timeout
        while (packet := self._packets.packet()) is None:
            left = deadline - time.monotonic()
            data = self._port.receive(left) if left > 0 else b""
            if not data:
                raise FatalError("the chip does not answer")
            self._packets.feed(data)
        return packet

    def _drain(self) -> None:
        """Read the other refusals; a ROM that sends fewer of them is waited for a little."""
        from esptool.util import FatalError

        deadline = time.monotonic() + SETTLE_S
        try:
            for _ in range(REFUSALS - 1):
                self._read(deadline - time.monotonic())
        except FatalError:
            return


@cache
def loader_class(chip: str) -> Any:
    """Return esptool's loader class of a chip with this packet layer, for its ROM and for the stub that follows."""
    from esptool.targets import CHIP_DEFS

    rom = CHIP_DEFS[chip]
    stub = type(f"Fast{rom.STUB_CLASS.__name__}", (Packets, rom.STUB_CLASS), {}) if rom.STUB_CLASS else None
    return type(f"Fast{rom.__name__}", (Packets, rom), {"STUB_CLASS": stub})
