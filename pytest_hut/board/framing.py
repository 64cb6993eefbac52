"""Packets on a byte stream: SLIP (RFC 1055) as the serial protocol of Espressif's loaders uses it."""

from __future__ import annotations

END, ESC = b"\xc0", b"\xdb"
_ESC_END, _ESC_ESC = b"\xdb\xdc", b"\xdb\xdd"


def encode(packet: bytes) -> bytes:
    """Return a packet as it goes over the wire (SLIP, RFC 1055)."""
    return END + packet.replace(ESC, _ESC_ESC).replace(END, _ESC_END) + END


class PacketReader:
    """Cuts what arrives into packets; what lies between packets, such as a boot log, is passed over."""

    def __init__(self) -> None:
        self._data = bytearray()

    def clear(self) -> None:
        """Forget what came so far."""
        self._data.clear()

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire."""
        self._data += data

    def packet(self) -> bytes | None:
        """Return the next whole packet, None while there is none."""
        while True:
            start = self._data.find(END)
            if start < 0:
                self._data.clear()
                return None
            end = self._data.find(END, start + 1)
            if end < 0:
                del self._data[:start]
                return None
            frame = bytes(self._data[start + 1 : end])
            # The closing delimiter stays: should a byte have been lost, it is the next packet's opening one.
            del self._data[: end if not frame or frame.count(ESC) != _escapes(frame) else end + 1]
            if frame and frame.count(ESC) == _escapes(frame):
                return frame.replace(_ESC_END, END).replace(_ESC_ESC, ESC)


def _escapes(frame: bytes) -> int:
    return frame.count(_ESC_END) + frame.count(_ESC_ESC)
