"""Firmware by commit: a folder in which many processes and users put and take firmware at the same time.

An entry (see `store_entry`) appears whole or not at all, by a rename, and never changes afterwards. Three kinds of
locks, all flock(2) and all gone with the process that held them: `.publish.lock` alone while the set of entries
changes, `.staging.lock` together by all who prepare entries, and each entry's own by those who use it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_hut.errors import FirmwareError, FirmwareMissing
from pytest_hut.firmware.commits import is_full_sha
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.store_entry import (
    LOCK,
    Entry,
    describe_entry,
    read_entry,
    read_manifest,
    sync_folder,
    write_entry,
)
from pytest_hut.firmware.store_lock import exclusive, exclusive_if_free, shared

_STAGING = ".staging"
_PUBLISH_LOCK = ".publish.lock"
_STAGING_LOCK = ".staging.lock"


@dataclass(frozen=True)
class Kept:
    """What lies at one place of the store."""

    commit: str
    chip: str
    folder: Path
    size: int
    """Bytes on disk."""
    used_at: float
    """When it was last used, in seconds since the epoch."""
    entry: Entry | None
    """None when its manifest cannot be read."""
    problem: str = ""
    """Why it cannot be used, as far as was looked."""


class FirmwareStore:
    """A firmware store; its folder is made when something is put there. OSErrors come out as FirmwareError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, commit: str, images: ImageSet, elfs: Sequence[bytes] = (), *, replace: bool = False) -> Entry:
        """Put firmware of a commit there, or find it there already.

        An entry that is damaged is replaced; a good one with other content only with `replace`.

        Raises:
            FirmwareError: other firmware of that commit is there, or is in use, or nothing can be written.
        """
        if not is_full_sha(commit):
            raise ValueError(f"{commit!r} is no full commit SHA")
        entry = describe_entry(commit, images, elfs)
        with self._errors("written to"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with shared(self.folder / _STAGING_LOCK, create=True), self._staging_folder() as staging:
                write_entry(staging, entry, images, elfs)
                return self._publish(staging, entry, replace=replace)

    @contextlib.contextmanager
    def lease(self, commit: str, chip: str) -> Iterator[Path]:
        """Keep an entry from being collected while inside; yields its folder, whose files are not looked at.

        Raises:
            FirmwareMissing: it is not there.
        """
        folder = self.folder / commit / chip
        with contextlib.ExitStack() as held:
            with self._errors("read"):
                while not self._lock_entry(folder, held):
                    held.close()  # It was replaced between our opening and locking it.
                if not (folder / LOCK).exists():
                    raise self._missing(commit, chip)
                with contextlib.suppress(OSError):  # Another user's, or read-only: then its own users tell its age.
                    os.utime(folder / LOCK)
            yield folder

    def load(self, commit: str, chip: str) -> ImageSet:
        """Return firmware, every file of it proved.

        Raises:
            FirmwareMissing: it is not there.
            FirmwareError: it is damaged.
        """
        with self.lease(commit, chip) as folder:
            try:
                return read_entry(folder)[1]
            except FirmwareError as error:
                raise FirmwareError(
                    f"the stored firmware of commit {commit} for {chip} is damaged, and is not flashed: {error} Add or"
                    " fetch it again."
                ) from error

    def entries(self, *, thorough: bool = False) -> list[Kept]:
        """Return everything that is there, latest used first; `thorough` proves every file."""
        found = []
        with self._errors("read"):
            for folder in self._entry_folders():
                with contextlib.suppress(FileNotFoundError):  # Collected or replaced meanwhile.
                    found.append(self._look_at(folder, thorough=thorough))
        return sorted(found, key=lambda kept: (-kept.used_at, kept.commit, kept.chip))

    @staticmethod
    def problem_of(kept: Kept) -> str:
        """Prove every file of an entry; return why it cannot be used, empty when it can."""
        try:
            read_entry(kept.folder)
        except FirmwareError as error:
            return str(error)
        return ""

    def collect(self, max_age_s: float | None, max_bytes: int | None) -> tuple[list[Kept], list[Kept]]:
        """Remove what was not used for `max_age_s`, then the least recently used until `max_bytes` are not exceeded.

        What processes left behind that were killed while adding goes too. Returns what was removed, and what would
        have been but is in use.
        """
        removed: list[Kept] = []
        in_use: list[Kept] = []
        if not self.folder.is_dir():
            return removed, in_use
        now = time.time()
        with self._errors("written to"), exclusive(self.folder / _PUBLISH_LOCK):
            self._clear_staging()
            oldest_first = self.entries()[::-1]
            total = sum(kept.size for kept in oldest_first)
            for kept in oldest_first:
                too_old = max_age_s is not None and now - kept.used_at > max_age_s
                too_much = max_bytes is not None and total > max_bytes
                if not (too_old or too_much):
                    continue
                if self._take_away(kept.folder):
                    removed.append(kept)
                    total -= kept.size
                else:
                    in_use.append(kept)
        return removed, in_use

    @staticmethod
    def _lock_entry(folder: Path, held: contextlib.ExitStack) -> bool:
        """Lock what is there, if anything; False when another is there by the time it is locked."""
        try:
            descriptor = held.enter_context(shared(folder / LOCK))
        except (FileNotFoundError, NotADirectoryError):
            return True
        try:
            return os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
        except FileNotFoundError:
            return False

    def _publish(self, staging: Path, entry: Entry, *, replace: bool) -> Entry:
        place = self.folder / entry.commit / entry.chip
        with exclusive(self.folder / _PUBLISH_LOCK):
            if place.exists():
                there = self._good_entry(place)
                if (
                    there is not None
                    and there.content_sha256 == entry.content_sha256
                    and len(there.elfs) >= len(entry.elfs)
                ):
                    return there
                if there is not None and there.content_sha256 != entry.content_sha256 and not replace:
                    raise FirmwareError(
                        f"the store has other firmware of commit {entry.commit} for {entry.chip} already (added"
                        f" {there.added_utc} from {there.source}); builds differ though their commit does not: keep"
                        " the first, or give --replace"
                    )
                if not self._take_away(place):
                    raise FirmwareError(
                        f"the stored firmware of commit {entry.commit} for {entry.chip} is in use; try again later"
                    )
            place.parent.mkdir(exist_ok=True)
            staging.rename(place)
            sync_folder(place.parent)
            sync_folder(self.folder)
        return entry

    @staticmethod
    def _good_entry(folder: Path) -> Entry | None:
        try:
            return read_entry(folder)[0] if (folder / LOCK).exists() else None
        except FirmwareError:
            return None  # Whoever adds anew makes it good.

    @contextlib.contextmanager
    def _staging_folder(self) -> Iterator[Path]:
        folder = self.folder / _STAGING / f"{os.getpid()}-{secrets.token_hex(8)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # After the rename there is nothing.

    def _take_away(self, folder: Path) -> bool:
        """Remove an entry unless it is in use; the caller holds the publish lock. Returns whether it is gone."""
        with exclusive_if_free(folder / LOCK) as free:
            if not free:
                return False
            trash = self.folder / _STAGING / f"trash-{secrets.token_hex(8)}"
            trash.parent.mkdir(exist_ok=True)
            folder.rename(trash)
        shutil.rmtree(trash)
        with contextlib.suppress(OSError):  # Other chips of the commit are there.
            folder.parent.rmdir()
        return True

    def _clear_staging(self) -> None:
        with exclusive_if_free(self.folder / _STAGING_LOCK) as nobody_stages:
            if nobody_stages:
                shutil.rmtree(self.folder / _STAGING, ignore_errors=True)

    def _entry_folders(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        for commit in self.folder.iterdir():
            if is_full_sha(commit.name) and commit.is_dir():
                yield from (folder for folder in commit.iterdir() if folder.is_dir())

    def _look_at(self, folder: Path, *, thorough: bool) -> Kept:
        entry, problem = None, ""
        try:
            entry = read_manifest(folder)
        except FirmwareError as error:
            problem = str(error)
        files = [path.lstat() for path in folder.iterdir()]
        lock = folder / LOCK
        used_at = (lock if lock.exists() else folder).stat().st_mtime
        size = sum(status.st_size for status in files)
        kept = Kept(folder.parent.name, folder.name, folder, size, used_at, entry, problem)
        return replace(kept, problem=self.problem_of(kept)) if thorough and not problem else kept

    def _missing(self, commit: str, chip: str) -> FirmwareMissing:
        others = sorted(kept.chip for kept in self.entries() if kept.commit == commit)
        only = f" (only for {', '.join(others)})" if others else ""
        return FirmwareMissing(
            f"the firmware store {self.folder} has no firmware of commit {commit} for {chip}{only}; run: hut firmware"
            f" fetch {commit} --chip {chip}, or hut firmware add"
        )

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FirmwareError(
                f"the firmware store {self.folder} cannot be {doing}: {error.strerror or error}"
            ) from error
