"""The evidence file that a step's output goes to while the step runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class OutputFile:
    """A new file. When it cannot be written any more, the rest is counted and dropped, so that the step can go on."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises OSError."""
        self.path = path
        self.size = 0
        """Bytes in the file."""
        self.dropped = 0
        """Bytes that did not get there."""
        self.trouble = ""
        """Why not."""
        self._digest = hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)

    @property
    def sha256(self) -> str:
        """The hash of what is in the file, in hex."""
        return self._digest.hexdigest()

    def take(self, data: bytes) -> None:
        """Append `data`."""
        rest = memoryview(data)
        while rest and not self.trouble:
            try:
                written = os.write(self._fd, rest)
            except OSError as error:
                self.trouble = error.strerror or str(error)
                break
            self._digest.update(rest[:written])
            self.size += written
            rest = rest[written:]
        self.dropped += len(rest)

    def close(self) -> None:
        """Close the file; a file system may tell of a full disk only now, and somebody may have removed the file."""
        if os.fstat(self._fd).st_nlink == 0:
            self.trouble = self.trouble or "the file was removed"
        try:
            os.close(self._fd)
        except OSError as error:
            self.trouble = self.trouble or error.strerror or str(error)
