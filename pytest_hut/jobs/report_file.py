"""A report's file with its space taken in advance, so that a disk that fills up later does not keep it from being said.

Whoever looks at the path sees nothing, or the whole report.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pytest_hut.contracts.report import Report, dump_report


class ReservedReport:
    """A place on disk for one report."""

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        """Take the space. Raises OSError: there is none, or the file cannot be made."""
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._draft, flags, 0o644)
        try:
            os.posix_fallocate(self._fd, 0, reserve_bytes)
        except OSError:
            self._abandon()
            raise

    def write(self, report: Report) -> None:
        """Write the report, once. Raises OSError, and leaves nothing behind then."""
        try:
            data = report_text(report).encode()
            rest = memoryview(data)
            while rest:
                rest = rest[os.pwrite(self._fd, rest, len(data) - len(rest)) :]
            os.ftruncate(self._fd, len(data))
            os.fsync(self._fd)
            self._put_in_place(data)
        except OSError:
            self._abandon()
            raise
        os.close(self._fd)

    def _put_in_place(self, data: bytes) -> None:
        try:
            self._draft.replace(self.path)
        except FileNotFoundError:
            # The job cleaned up its folder, and with it the draft.
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            self._draft.write_bytes(data)
            self._draft.replace(self.path)

    def _abandon(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(OSError):
            self._draft.unlink()


def report_text(report: Report) -> str:
    """Return the report as the text of a JSON file."""
    return json.dumps(dump_report(report), indent=2, ensure_ascii=False) + "\n"
