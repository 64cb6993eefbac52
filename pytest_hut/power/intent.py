"""What the next holder of a slot must know about its power, on disk before the power goes off.

The file lies beside the slot's lock and is read and written only while that lock is held, by any user of the host.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_hut.errors import InfrastructureError

LINE_WIDTH = 120
"""Every record is as long as any other, so that one write replaces all of it, wherever its writer is killed."""


@dataclass(frozen=True)
class PowerRecord:
    """Times are wall clock, seconds since the epoch, 0 for never: they have to mean the same in every process."""

    off_intended: bool = False
    """True from before the relay is told to switch off until it is proved on again."""
    last_cycle_end: float = 0.0
    """When power was last proved to be back."""
    off_sent: float = 0.0
    """When last somebody waited for an off that may be still under way, because its end was not seen."""

    def cooldown_left_s(self, cooldown_s: float) -> float:
        """Return for how many seconds the next off has to wait."""
        since = time.time() - self.last_cycle_end
        # A clock that was set back must not lock the slot for ever.
        return cooldown_s - since if 0 <= since < cooldown_s else 0.0

    def watch_left_s(self, watch_s: float) -> float:
        """Return for how many seconds a late off is still to be expected."""
        if not self.off_sent:
            return 0.0
        return min(watch_s, max(0.0, self.off_sent + watch_s - time.time()))


class PowerFile:
    """Reads and writes the record of one slot."""

    def __init__(self, lock_path: Path) -> None:
        self.path = lock_path.with_name(lock_path.name.removesuffix(".lock") + ".power")

    def read(self) -> PowerRecord | None:
        """Return what is on disk, None if nobody wrote anything since the host started.

        A damaged file comes from a crash while power was being switched, so it counts as an intent.

        Raises:
            InfrastructureError: there is something that cannot be read.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                text = os.read(fd, 4096)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InfrastructureError(
                f"{self.path} cannot be read ({error.strerror}), so nobody knows whether the board was left off; "
                "remove it or give this user access"
            ) from None
        if not text:
            return None  # Made, and its writer was killed before it wrote the intent: nothing was switched.
        try:
            data: Any = json.loads(text)
            return PowerRecord(bool(data["off_intended"]), float(data["last_cycle_end"]), float(data["off_sent"]))
        except (ValueError, KeyError, TypeError):
            return PowerRecord(off_intended=True, off_sent=time.time())

    def write(self, record: PowerRecord) -> None:
        """Put `record` on disk and wait until it is there.

        Raises:
            InfrastructureError: it could not be written; the power must not be switched off then.
        """
        line = json.dumps(asdict(record)).ljust(LINE_WIDTH) + "\n"
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                fd = os.open(self.path, flags)
            except FileNotFoundError:
                fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(fd, 0o666)  # The next holder may be another user.
            try:
                os.pwrite(fd, line.encode(), 0)
                os.ftruncate(fd, len(line))
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise InfrastructureError(
                f"{self.path} cannot be written ({error.strerror}), so the power is left as it is; "
                "give this user access"
            ) from None
