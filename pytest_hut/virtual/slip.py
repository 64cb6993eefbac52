"""SLIP framing (RFC 1055) as Espressif's serial protocol uses it: every packet begins and ends with 0xC0."""

from __future__ import annotations

END = b"\xc0"
ESC = b"\xdb"
ESC_END = b"\xdb\xdc"
ESC_ESC = b"\xdb\xdd"

MAX_ENCODED_FRAME = 2 * (8 + 0xFFFF)
"""Bytes of the longest packet of the protocol when every byte of it is escaped."""


def encode(packet: bytes) -> bytes:
    """Return `packet` as it goes over the wire, delimiters included."""
    return END + packet.replace(ESC, ESC_ESC).replace(END, ESC_END) + END


class SlipDecoder:
    """Cuts a byte stream into packets, whatever the chunks it arrives in."""

    def __init__(self) -> None:
        self._pending: list[bytes] | None = None
        self._pending_size = 0

    def reset(self) -> None:
        """Forget what came so far; what follows is skipped up to the next delimiter."""
        self._pending = None
        self._pending_size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the packets that `chunk` completes.

        Empty packets, packets with an invalid escape and packets longer than the protocol allows are dropped.
        """
        first, *others = chunk.split(END)
        if not others:
            self._keep(first)
            return []
        encoded = others[:-1]
        if self._pending is not None:
            self._pending.append(first)
            encoded.insert(0, b"".join(self._pending))
        self._pending = []
        self._pending_size = 0
        self._keep(others[-1])
        packets = (_decode(frame) for frame in encoded if frame)
        return [packet for packet in packets if packet is not None]

    def _keep(self, part: bytes) -> None:
        if self._pending is None or not part:
            return
        self._pending.append(part)
        self._pending_size += len(part)
        if self._pending_size > MAX_ENCODED_FRAME:
            self.reset()


def _decode(frame: bytes) -> bytes | None:
    escapes = frame.count(ESC)
    if not escapes:
        return frame
    if frame.count(ESC_END) + frame.count(ESC_ESC) != escapes:
        return None
    return frame.replace(ESC_END, END).replace(ESC_ESC, ESC)
