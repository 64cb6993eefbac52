"""What the next holder of a slot must know about its power, on disk before the power goes off.

The file lies beside the slot's lock and is read and written only while that lock is held, by any user of the host.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_hut.errors import InfrastructureError


@dataclass(frozen=True)
class PowerRecord:
    """`off_intended` is true from before the relay is told to switch off until it is proved on again."""

    off_intended: bool = False
    last_cycle_end: float = 0.0
    """Wall clock, seconds since the epoch; 0 for never."""

    def cooldown_left_s(self, cooldown_s: float) -> float:
        """Return for how many seconds the next cycle has to wait."""
        since = time.time() - self.last_cycle_end
        # A clock that was set back must not lock the slot for ever.
        return cooldown_s - since if 0 <= since < cooldown_s else 0.0


class PowerFile:
    """Reads and writes the record of one slot."""

    def __init__(self, lock_path: Path) -> None:
        self.path = lock_path.with_name(lock_path.name.removesuffix(".lock") + ".power")

    def read(self) -> PowerRecord:
        """Return what is on disk; a missing or damaged file means nothing is known to be off."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                data: Any = json.loads(os.read(fd, 4096))
            finally:
                os.close(fd)
            return PowerRecord(bool(data["off_intended"]), float(data["last_cycle_end"]))
        except (OSError, ValueError, KeyError, TypeError):
            return PowerRecord()

    def write(self, record: PowerRecord) -> None:
        """Put `record` on disk and wait until it is there.

        Raises:
            InfrastructureError: it could not be written; the power must not be switched off then.
        """
        text = json.dumps({"off_intended": record.off_intended, "last_cycle_end": record.last_cycle_end}) + "\n"
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                fd = os.open(self.path, flags)
            except FileNotFoundError:
                fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(fd, 0o666)  # The next holder may be another user.
            try:
                os.pwrite(fd, text.encode(), 0)
                os.ftruncate(fd, len(text))
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise InfrastructureError(
                f"{self.path} cannot be written ({error.strerror}), so the power is left as it is; "
                "give this user access"
            ) from None
