"""The raw console log: every byte as it arrived, and beside it when."""

from __future__ import annotations

import os
from pathlib import Path

MARK_EVERY_S = 0.01
"""A time stamp for every chunk would outweigh a fast log; this is far below what a UART line takes."""


class RawLog:
    """Two files: `NAME.log` with the bytes, `NAME.times` with lines `OFFSET SECONDS` (monotonic host clock).

    A byte at some offset arrived no earlier than the last time stamp at or before it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._bytes = os.open(path, flags, 0o644)
        self._times = os.open(path.with_suffix(".times"), flags, 0o644)
        self.offset = os.fstat(self._bytes).st_size
        """Where the next byte goes; not 0 when the slot is held once more in the same job."""
        self._stamped_at = float("-inf")

    def append(self, data: bytes, time_s: float) -> None:
        """Put `data` on disk (handed to the kernel) before returning. Raises OSError, e.g. on a full disk."""
        if time_s - self._stamped_at >= MARK_EVERY_S:
            self._stamped_at = time_s
            os.write(self._times, f"{self.offset} {time_s:.6f}\n".encode())
        view = memoryview(data)
        while view:
            view = view[os.write(self._bytes, view) :]
        self.offset += len(data)

    def close(self) -> None:
        """Close both files. Idempotent."""
        for name in ("_bytes", "_times"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)
