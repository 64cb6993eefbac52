"""What is remembered of a slot between sessions: what its flash holds, and which baud rates failed on its line.

The contents count only while nobody else can have touched the board: they are void from the moment a session takes
the slot until it gives it back in an orderly way, and when the lock file or the device tell of another user since.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_hut.board.flash_plan import SECTOR, Region

FAILED_BAUD_S = 24 * 3600.0
"""A baud rate that failed is tried again after a day: cables get replaced."""

BAUDS = (2_000_000, 1_500_000, 921_600, 460_800, 230_400, 115_200)
"""What is tried, one after the other, when a higher one fails."""

_TIOCGICOUNT = 0x545D
_ICOUNT = struct.Struct("11i9i")
_TX = 5


@dataclass
class FlashMemory:
    """One slot's memory; `take_over` behind the slot's lock, `save` it before the lock is given back."""

    path: Path | None = None
    """Where it is kept; None keeps it nowhere."""
    sectors: dict[int, str] = field(default_factory=dict)
    """Digest of what each written and verified sector holds, see `flash_plan.sector_digests`."""
    trusted: bool = False
    """Nobody can have changed the flash since."""
    failed_bauds: dict[int, float] = field(default_factory=dict)
    """When (seconds since the epoch) a rate failed last."""
    suspects: set[int] = field(default_factory=set)
    """Rates at which the tries of the flash that is going on failed."""
    early_baud: bool = True
    """Whether the ROM's loader may be asked for the higher rate before the stub is uploaded."""

    def take_over(self, path: Path, stamp: Mapping[str, int] | None) -> None:
        """Read what an earlier session left, and mark it as in use until `save` is called with a stamp.

        Args:
            stamp: the state of device and lock now; only where it is as that session left it is the memory trusted.
                None: it cannot be told who used the board meanwhile.
        """
        self.path = path
        kept = _read(path)
        if kept is not None:
            self.failed_bauds = kept.failed_bauds
            self.early_baud = kept.early_baud
            self.sectors = kept.sectors
            self.trusted = stamp is not None and kept.stamp == dict(stamp)
        self.save(None)

    def save(self, stamp: Mapping[str, int] | None) -> None:
        """Write it down; with a stamp, for the next session to trust. A disk that is full only costs time later."""
        if self.path is None:
            return
        kept = _Kept(
            stamp=dict(stamp) if stamp is not None and self.trusted else None,
            sectors=self.sectors,
            failed_bauds=self.failed_bauds,
            early_baud=self.early_baud,
        )
        _write(self.path, kept)

    def overwrite(self, region: Region) -> None:
        """The region is about to be written: what was known of its sectors is void."""
        for sector in range(region.offset // SECTOR, -(-region.end // SECTOR)):
            self.sectors.pop(sector, None)

    def distrust(self) -> None:
        """Something may have changed the flash: a write that failed, or the board was away."""
        self.trusted = False

    def learn(self, sectors: Mapping[int, str]) -> None:
        """These sectors were just verified by the chip; what was known of others stays if it was trusted."""
        self.sectors = {**(self.sectors if self.trusted else {}), **sectors}
        self.trusted = True
        self.save(None)

    def best_baud(self, configured: int) -> int:
        """Return the highest rate up to `configured` that has not failed lately."""
        now = time.time()
        bad = {baud for baud, when in self.failed_bauds.items() if 0 <= now - when < FAILED_BAUD_S} | self.suspects
        candidates = [configured, *(baud for baud in BAUDS if baud < configured)]
        return next((baud for baud in candidates if baud not in bad), candidates[-1])

    def suspect_baud(self, baud: int) -> None:
        """A flash failed at this rate, which may or may not be why: the next try takes a lower one."""
        self.suspects.add(baud)

    def baud_proved(self) -> None:
        """A flash went well; where it failed at a higher rate just before, that rate was why."""
        if self.suspects:
            self.failed_bauds.update(dict.fromkeys(self.suspects, time.time()))
            self.suspects.clear()
            self.save(None)


def carry_stamp(path: Path, before: int, after: int) -> None:
    """The lock file's time went from `before` to `after` by the slot's rightful holder: what was trusted stays so."""
    kept = _read(path)
    if kept is not None and kept.stamp is not None and kept.stamp.get("lock") == before:
        kept.stamp["lock"] = after
        _write(path, kept)


def device_stamp(device: str, fd: int | None) -> dict[str, int] | None:
    """Return what changes when somebody else uses the device; None where that cannot be told.

    The kernel notes when a device was written to, in steps of 8 s, and counts the bytes sent where its driver does.
    Both are taken: some drivers (cdc_acm) answer with a count that stays 0. A port on the network (`fd` is None)
    leaves no trace.
    """
    if fd is None:
        return None
    try:
        there = Path(device).stat()
    except OSError:
        return None
    sent = _bytes_sent(fd)
    return {
        "device": there.st_rdev,
        "inode": there.st_ino,
        "written": there.st_mtime_ns,
        "sent": -1 if sent is None else sent,
    }


def _bytes_sent(fd: int) -> int | None:
    try:
        counters = fcntl.ioctl(fd, _TIOCGICOUNT, bytes(_ICOUNT.size))
    except OSError:
        return None
    return int(_ICOUNT.unpack(counters)[_TX])


@dataclass
class _Kept:
    """The file's content; JSON has only texts as keys."""

    stamp: dict[str, int] | None
    sectors: dict[int, str]
    failed_bauds: dict[int, float]
    early_baud: bool


def _write(path: Path, kept: _Kept) -> None:
    # Not `asdict`, which copies every one of a thousand sectors.
    body = json.dumps(vars(kept), separators=(",", ":"), sort_keys=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(hashlib.sha256(body.encode()).hexdigest() + "\n" + body, encoding="utf-8")
        draft.replace(path)
    except OSError:
        # What cannot be replaced must not be believed.
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path) -> _Kept | None:
    """Return what the file says, None unless every bit of it is as it was written."""
    try:
        digest, _, body = path.read_text(encoding="utf-8").partition("\n")
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            return None
        data: dict[str, Any] = json.loads(body)
        return _Kept(
            stamp=data["stamp"],
            sectors={int(sector): str(text) for sector, text in data["sectors"].items()},
            failed_bauds={int(baud): float(when) for baud, when in data["failed_bauds"].items()},
            early_baud=bool(data["early_baud"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
