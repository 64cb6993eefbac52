"""One entry of a firmware store: a folder with images, ELF files, and `entry.json`, which says what they have to be.

<store>/<commit SHA>/<chip>/entry.json    the manifest, JSON
                            0x1000.bin    an image, named by its flash address
                            app-<16 digits of its SHA-256>.elf
                            lock          held (shared) by whoever uses the entry
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.checks import checked
from pytest_hut.firmware.chips import CHIPS
from pytest_hut.firmware.commits import is_full_sha
from pytest_hut.firmware.identity import describe
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.trees import read_file

SCHEMA = "hut.firmware.v1"
MANIFEST = "entry.json"
LOCK = "lock"
_MAX_MANIFEST = 1024 * 1024
_IMAGE_NAME = re.compile(r"0x[0-9a-f]{1,8}\.bin")
_ELF_NAME = re.compile(r"app-[0-9a-f]{16}\.elf")


@dataclass(frozen=True)
class StoredFile:
    """A file and what it has to be. `sha256` is hex."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class StoredImage(StoredFile):
    """An image: `offset` in bytes from the start of the flash, `name` as the build called it."""

    offset: int
    name: str


@dataclass(frozen=True)
class StoredApp:
    """An application in the images, as its descriptor tells."""

    partition: str
    project: str
    version: str
    idf_version: str
    elf_sha256: str


@dataclass(frozen=True)
class Entry:
    """The content of `entry.json`."""

    commit: str
    chip: str
    content_sha256: str
    boots: str | None
    """Label of the partition whose application starts."""
    apps: tuple[StoredApp, ...]
    images: tuple[StoredImage, ...]
    elfs: tuple[StoredFile, ...]
    flash_mode: str | None
    flash_freq: str | None
    flash_size: str | None
    source: str
    """Where it came from, for people."""
    added_utc: str

    @property
    def size(self) -> int:
        """Bytes of all images and ELF files."""
        return sum(file.size for file in (*self.images, *self.elfs))

    @property
    def version(self) -> str | None:
        """Version of the application that boots."""
        return next((app.version for app in self.apps if app.partition == self.boots), None)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {"schema": SCHEMA, **asdict(self)}


def describe_entry(commit: str, images: ImageSet, elfs: Sequence[bytes] = ()) -> Entry:
    """Return the entry for firmware of a commit.

    Raises:
        FirmwareError: nothing in the images says for which chip they are, or an ELF file is not that of one of them.
    """
    identity = describe(images)
    if identity.chip is None:
        raise FirmwareError(f"{images.source} does not say for which chip it is; add the bootloader or a manifest.")
    apps = tuple(
        StoredApp(label, app.project_name, app.version, app.idf_version, app.elf_sha256)
        for label, app in identity.apps.items()
    )
    stored_elfs = tuple(_stored(f"app-{_sha256(elf)[:16]}.elf", elf) for elf in elfs)
    known = {app.elf_sha256 for app in apps if app.elf_sha256.strip("0")}
    for elf in stored_elfs:
        if known and elf.sha256 not in known:
            raise FirmwareError(
                f"The ELF file with SHA-256 {elf.sha256[:16]}... is not the one that {images.source} was made of;"
                " take the ELF file of the same build."
            )
    return Entry(
        commit=commit,
        chip=identity.chip,
        content_sha256=images.content_sha256,
        boots=identity.boot_partition,
        apps=apps,
        images=tuple(
            StoredImage(f"{image.offset:#x}.bin", len(image.data), image.sha256, image.offset, image.name)
            for image in images.images
        ),
        elfs=tuple(dict.fromkeys(stored_elfs)),
        flash_mode=images.flash_mode,
        flash_freq=images.flash_freq,
        flash_size=images.flash_size,
        source=images.source,
        added_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def write_entry(folder: Path, entry: Entry, images: ImageSet, elfs: Sequence[bytes] = ()) -> None:
    """Write an entry into an empty folder, the manifest last; everything is on the disk on return. Raises OSError."""
    for image in images.images:
        _write(folder / f"{image.offset:#x}.bin", image.data)
    for stored, data in zip(entry.elfs, dict.fromkeys(elfs), strict=True):
        _write(folder / stored.file, data)
    _write(folder / LOCK, b"")
    _write(folder / MANIFEST, json.dumps(entry.to_json(), indent=2).encode())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> Entry:
    """Read `entry.json` of the folder `<store>/<commit>/<chip>`; the other files are not looked at.

    Raises:
        FirmwareError: it is missing, damaged, or speaks of another commit or chip than the folder's name.
    """
    path = folder / MANIFEST
    data = read_file(path)
    try:
        if len(data) > _MAX_MANIFEST:
            raise ValueError("too large")
        content = json.loads(data)
        entry = _entry_from(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FirmwareError(f"{path} is damaged ({error or type(error).__name__}).") from None
    named = (folder.parent.name, folder.name)
    if (entry.commit, entry.chip) != named:
        raise FirmwareError(f"{path} speaks of commit {entry.commit} and {entry.chip}, but lies where others belong.")
    return entry


def read_entry(folder: Path) -> tuple[Entry, ImageSet]:
    """Read an entry and prove every file of it. Raises FirmwareError that names the first thing that is not right."""
    entry = read_manifest(folder)
    images = [FlashImage(stored.name, stored.offset, _proved(folder, stored)) for stored in entry.images]
    for elf in entry.elfs:
        _proved(folder, elf)
    ordered, _ = checked(images, str(folder), [("its place in the store", entry.chip)], entry.flash_size)
    image_set = ImageSet(
        images=ordered,
        source=entry.source,
        chip=entry.chip,
        flash_mode=entry.flash_mode,
        flash_freq=entry.flash_freq,
        flash_size=entry.flash_size,
        commit=entry.commit,
    )
    expected = describe_entry(entry.commit, image_set)
    if replace(expected, elfs=entry.elfs, added_utc=entry.added_utc) != entry:
        raise FirmwareError(f"{folder / MANIFEST} says other things about the images than they do themselves.")
    return entry, image_set


def read_elfs(folder: Path, entry: Entry) -> list[bytes]:
    """Return the ELF files of an entry, proved. Raises FirmwareError."""
    return [_proved(folder, elf) for elf in entry.elfs]


def _entry_from(content: dict[str, Any]) -> Entry:
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r:.40}, not {SCHEMA}")
    values = {key: value for key, value in content.items() if key != "schema"}
    values["apps"] = tuple(StoredApp(**app) for app in values["apps"])
    values["images"] = tuple(StoredImage(**image) for image in values["images"])
    values["elfs"] = tuple(StoredFile(**elf) for elf in values["elfs"])
    entry = Entry(**values)
    if not is_full_sha(entry.commit) or entry.chip not in CHIPS or not entry.images:
        raise ValueError("it names no commit, chip or image")
    for image in entry.images:
        if not _IMAGE_NAME.fullmatch(image.file) or not isinstance(image.offset, int) or not image.name.isprintable():
            raise ValueError(f"{image.file!r:.40} is no image")
    for elf in entry.elfs:
        if not _ELF_NAME.fullmatch(elf.file):
            raise ValueError(f"{elf.file!r:.40} is no ELF file")
    texts = [entry.source, entry.added_utc, *(text for app in entry.apps for text in asdict(app).values())]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    return entry


def _proved(folder: Path, stored: StoredFile) -> bytes:
    path = folder / stored.file
    if path.is_symlink():
        raise FirmwareError(f"{path} is a link; the store holds files only.")
    data = read_file(path)
    if len(data) != stored.size or _sha256(data) != stored.sha256:
        raise FirmwareError(f"{path} is not the file that was stored: its SHA-256 is {_sha256(data)[:16]}....")
    return data


def _stored(name: str, data: bytes) -> StoredFile:
    return StoredFile(name, len(data), _sha256(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
