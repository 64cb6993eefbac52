"""The SPI NOR flash of a virtual board: a file that survives the session."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from pathlib import Path

SECTOR_SIZE = 4096
"""Bytes erased at a time."""
ERASED = b"\xff"


class FileFlash:
    """A `machine.Flash` over a file that any number of processes may have open: all see one content.

    Writes and erases of one object exclude each other; across processes, one board at a time is expected to write.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Open the flash at `path`, creating it erased (and its folder) when it is missing.

        `size` is in bytes. Raises ValueError when that is no whole number of sectors or not the size of the file.
        """
        if size <= 0 or size % SECTOR_SIZE:
            raise ValueError(f"a flash of {size} bytes is not a whole number of {SECTOR_SIZE}-byte sectors")
        self.path = path
        self.size = size
        if not path.exists():
            _create_erased(path, size)
        with path.open("r+b") as file:
            actual = os.fstat(file.fileno()).st_size
            if actual != size:
                raise ValueError(
                    f"{path} holds {actual} bytes, but the board's flash has {size}; delete the file or change the size"
                )
            self._content = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED)
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes; raises ValueError outside the chip."""
        self._check(offset, length)
        return self._content[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Program: the result is old AND new. Raises ValueError outside the chip."""
        length = len(data)
        self._check(offset, length)
        end = offset + length
        with self._lock:
            old = self._content[offset:end]
            if old != ERASED * length:
                data = (int.from_bytes(old, "little") & int.from_bytes(data, "little")).to_bytes(length, "little")
            self._content[offset:end] = data

    def erase(self, offset: int, length: int) -> None:
        """Erase whole sectors covering the range. Raises ValueError outside the chip."""
        self._check(offset, length)
        if not length:
            return
        start = offset - offset % SECTOR_SIZE
        end = offset + length + (-(offset + length) % SECTOR_SIZE)
        with self._lock:
            self._content[start:end] = ERASED * (end - start)

    def close(self) -> None:
        """Let go of the file; the object is of no use after that."""
        self._content.close()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset:#x} are outside a flash of {self.size} bytes")


def _create_erased(path: Path, size: int) -> None:
    """Make the file appear complete, so that another process never opens a half-filled one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
        file.write(ERASED * size)
        file.flush()
        try:
            path.hardlink_to(file.name)
        except FileExistsError:
            pass  # another process was faster, and its flash is as good
