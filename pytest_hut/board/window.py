"""The console's recent bytes in memory, addressed by their offset in the whole stream."""

from __future__ import annotations

KEEP = 8 << 20
"""Bytes kept when nobody asks for less; the file has everything."""


class StreamWindow:
    """An append-only stream of which the last `KEEP` bytes can be read back. Not locked: its owner is."""

    def __init__(self, start: int = 0) -> None:
        """`start` is the offset of the first byte that will be appended."""
        self._data = bytearray()
        self._start = start

    @property
    def start(self) -> int:
        """Offset of the oldest byte kept."""
        return self._start

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return self._start + len(self._data)

    def append(self, data: bytes) -> None:
        """Add bytes at the end; the oldest go when there are too many."""
        self._data += data
        if len(self._data) > 2 * KEEP:
            self.discard(self.end - KEEP)

    def discard(self, before: int) -> None:
        """Forget everything before that offset."""
        count = min(max(0, before - self._start), len(self._data))
        del self._data[:count]
        self._start += count

    def read(self, start: int, most: int | None = None) -> bytes:
        """Return what is kept from `start` on, up to the end or up to `most` bytes of it."""
        first = max(0, start - self._start)
        return bytes(self._data[first : None if most is None else first + most])
