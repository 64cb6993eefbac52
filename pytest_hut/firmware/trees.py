"""Where the files of a firmware are read from: a folder, or a zip archive that is never unpacked to disk.

Names are relative to the top, with `/`. Every method raises FirmwareError with a sentence for a person.
"""

from __future__ import annotations

import lzma
import posixpath
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pytest_hut.errors import FirmwareError

MAX_FLASH = 128 * 1024 * 1024
"""Bytes of the largest flash any of the chips can address; no file of a firmware is larger."""
_MAX_FILES = 10_000
_MAX_UNPACKED = 2 * MAX_FLASH
_DRIVE_OR_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ZIP_TROUBLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
    struct.error,
)
"""What Python's zipfile and its decompressors raise for archives that are damaged or made to hurt."""


class FileTree(Protocol):
    """Read-only files below one top."""

    def describe(self, name: str) -> str:
        """Return how a person would call the file."""

    def names(self, depth: int) -> list[str]:
        """Return the names of the regular files exactly `depth` folders below the top, sorted."""

    def read(self, name: str, *, confined: bool = True) -> bytes:
        """Return a file's content; `confined` keeps it below the top, whatever the name says."""


def join_name(folder: str, name: str, said_by: str) -> str:
    """Return `name` as seen from `folder`, refusing absolute names, URLs and names that leave `folder`."""
    path = name.replace("\\", "/")
    if not path or not path.isprintable():
        raise FirmwareError(f"{said_by} is {name!r}, which is no file name; give a path relative to the manifest.")
    if path.startswith("/") or _DRIVE_OR_URL.match(path):
        raise FirmwareError(f"{said_by} is {name!r}; only a file at or below the manifest's own folder can be used.")
    plain = posixpath.normpath(path)
    if plain == "." or plain.startswith("../") or plain == "..":
        raise FirmwareError(f"{said_by} is {name!r}, which leaves the manifest's folder; put the file below it.")
    return posixpath.join(folder, plain)


class FolderTree:
    """A folder on disk."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def describe(self, name: str) -> str:
        """Return the path."""
        return str(self._top / name)

    def names(self, depth: int) -> list[str]:
        """Return names `depth` folders down; symlinked folders are not followed."""
        return sorted(path.relative_to(self._top).as_posix() for path in self._files(self._top, depth))

    def read(self, name: str, *, confined: bool = True) -> bytes:
        """Return the content of a regular file of at most 128 MiB."""
        path = self._top / name
        try:
            inside = not confined or path.resolve().is_relative_to(self._top.resolve())
        except (OSError, RuntimeError, ValueError) as error:
            raise FirmwareError(f"The file {path} cannot be read: {error}.") from error
        if not inside:
            raise FirmwareError(f"{path} is a link out of the firmware's folder; put the file itself there.")
        return read_file(path)

    def _files(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            entries = list(folder.iterdir())
        except OSError as error:
            raise FirmwareError(f"The folder {folder} cannot be read: {error.strerror}.") from error
        if len(entries) > _MAX_FILES:
            raise FirmwareError(f"The folder {folder} has more than {_MAX_FILES} entries; name the firmware's file.")
        for entry in entries:
            if depth == 0 and entry.is_file():
                yield entry
            elif depth > 0 and entry.is_dir() and not entry.is_symlink():
                yield from self._files(entry, depth - 1)


class ZipTree:
    """A zip archive. Encrypted, damaged, oversized archives and names that point outside are refused at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
            entries = self._archive.infolist()
        except _ZIP_TROUBLE as error:
            raise FirmwareError(f"{path} is no zip archive that can be read ({error}); make it anew.") from error
        self._entries = self._checked(entries)

    def describe(self, name: str) -> str:
        """Return name and archive."""
        return f"{name} in {self._path}"

    def names(self, depth: int) -> list[str]:
        """Return names `depth` folders down."""
        return sorted(name for name in self._entries if name.count("/") == depth)

    def read(self, name: str, *, confined: bool = True) -> bytes:  # noqa: ARG002 - nothing outside can be reached
        """Return the content of an entry of at most 128 MiB, whatever size the archive claims for it."""
        entry = self._entries.get(posixpath.normpath(name))
        if entry is None:
            raise FirmwareError(f"{self.describe(name)} does not exist; put the file into the archive.")
        try:
            with self._archive.open(entry) as stream:
                data = stream.read(MAX_FLASH + 1)
        except _ZIP_TROUBLE as error:
            raise FirmwareError(f"{self.describe(name)} is damaged ({error}); make the archive anew.") from error
        return _bounded(data, self.describe(name))

    def _checked(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(entries) > _MAX_FILES:
            raise FirmwareError(f"{self._path} has more than {_MAX_FILES} entries; that is no firmware.")
        if sum(entry.file_size for entry in entries) > _MAX_UNPACKED:
            raise FirmwareError(f"{self._path} unpacks to more than {_MAX_UNPACKED >> 20} MiB; that is no firmware.")
        files: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.filename.endswith("/"):
                continue
            name = join_name("", entry.filename, f"The name of an entry of {self._path}")
            if entry.flag_bits & 1:
                raise FirmwareError(f"{self.describe(name)} is encrypted; make the archive without a password.")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise FirmwareError(f"{self.describe(name)} is a symbolic link; put the file itself into the archive.")
            if name in files:
                raise FirmwareError(f"{self._path} holds two files called {name}; make the archive anew.")
            files[name] = entry
        return files


def read_file(path: Path) -> bytes:
    """Return the content of a regular file of at most 128 MiB; raises FirmwareError."""
    try:
        if not path.exists():
            raise FirmwareError(f"The file {path} does not exist; build the firmware, or correct the path.")
        if not path.is_file():
            raise FirmwareError(f"{path} is no regular file; name a file.")
        with path.open("rb") as stream:
            data = stream.read(MAX_FLASH + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FirmwareError(f"The file {path} cannot be read: {reason}.") from error
    return _bounded(data, str(path))


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_FLASH:
        raise FirmwareError(f"{name} is larger than {MAX_FLASH >> 20} MiB, the largest flash there is.")
    return data
