"""Loads firmware from disk: whatever a build, a release page or an artifact store hands out.

Understood are a folder or file with ESP-IDF's `flasher_args.json`, a manifest (see `manifests`), a merged `.bin`
for address 0, a zip archive of any of these, and a folder that holds exactly one such thing. Everything is checked
here, before a board is touched; each refusal is one FirmwareError for a person.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.checks import checked
from pytest_hut.firmware.descriptors import AppDescription
from pytest_hut.firmware.image import HEADER_SIZE, IMAGE_MAGIC, SEGMENT_HEADER_SIZE
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.layout import FlashContent
from pytest_hut.firmware.manifests import Manifest, chip_name, is_manifest, load_json, parse_manifest
from pytest_hut.firmware.trees import MAX_FLASH, FileTree, FolderTree, ZipTree, join_name, read_file

_BUILD_MANIFEST = "flasher_args.json"
_MANIFEST_SUFFIXES = (".json", "")
_DEEPEST = 2
_MAX_MANIFEST = 4 * 1024 * 1024
_WAYS = "give a build folder with flasher_args.json, a manifest, a merged .bin, or a zip of these"
_ERASED = b"\xff"
_WORD = 4


def load_firmware(path: Path, chip: str | None = None) -> ImageSet:
    """Load and check the firmware at `path` for `chip` (esptool's name; None takes the chip the firmware names).

    Where a manifest has several builds, `chip` chooses. Raises FirmwareError.
    """
    wanted = None if chip is None else chip_name(chip, "The chip asked for")
    if _is_folder(path):
        return _from_tree(FolderTree(path), path, wanted)
    data = read_file(path)
    if data.startswith(b"PK\x03\x04"):
        return _from_tree(ZipTree(path), path, wanted)
    if data[:16].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _from_manifest(FolderTree(path.parent), path.name, path, wanted)
    return _from_binary(data, path.name, str(path), path, wanted)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise FirmwareError(f"{path} cannot be read: {error.strerror}.") from error


def _from_tree(tree: FileTree, path: Path, chip: str | None) -> ImageSet:
    """Take what the uppermost level with something to take holds."""
    for depth in range(_DEEPEST + 1):
        names = tree.names(depth)
        manifests = [name for name in names if posixpath.basename(name) == _BUILD_MANIFEST]
        manifests = manifests or [name for name in names if _holds_manifest(tree, name)]
        if manifests:
            return _from_manifest(tree, _only(manifests, "manifests", path), path, chip)
        archives = [name for name in names if name.lower().endswith(".zip")] if isinstance(tree, FolderTree) else []
        if archives:
            archive = path / _only(archives, "zip archives", path)
            return _from_tree(ZipTree(archive), archive, chip)
        binaries = [name for name in names if name.lower().endswith(".bin")]
        if len(binaries) == 1:
            return _from_binary(tree.read(binaries[0]), binaries[0], tree.describe(binaries[0]), path, chip)
        if binaries:
            raise FirmwareError(
                f"{path} has {len(binaries)} .bin files but no {_BUILD_MANIFEST} or manifest that says where they go;"
                " add one."
            )
    raise FirmwareError(f"{path} holds no firmware; {_WAYS}.")


def _only(names: list[str], what: str, path: Path) -> str:
    if len(names) > 1:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise FirmwareError(f"{path} holds {len(names)} {what} ({some}); name one of them.")
    return names[0]


def _holds_manifest(tree: FileTree, name: str) -> bool:
    if posixpath.splitext(name)[1].lower() not in _MANIFEST_SUFFIXES:
        return False
    try:
        data = tree.read(name)
        return len(data) <= _MAX_MANIFEST and is_manifest(load_json(data, name))
    except FirmwareError:
        return False  # some other file that is nobody's manifest


def _from_manifest(tree: FileTree, name: str, path: Path, chip: str | None) -> ImageSet:
    where = tree.describe(name)
    data = tree.read(name, confined=False)
    if len(data) > _MAX_MANIFEST:
        raise FirmwareError(f"{where} has {len(data)} bytes; that is no manifest.")
    manifest = parse_manifest(load_json(data, where), where, chip)
    images: list[FlashImage] = []
    for part in manifest.parts:
        content = _read_part(tree, name, part.file, f"{where}: {part.key}", manifest)
        images.append(FlashImage(name=part.file, offset=part.offset, data=content))
        if sum(len(image.data) for image in images) > MAX_FLASH:
            raise FirmwareError(f"{where} names more than {MAX_FLASH >> 20} MiB of files, the largest flash there is.")
    claims = [("the chip asked for", chip), ("the manifest", manifest.chip)]
    ordered, agreed = checked(images, where, claims, manifest.flash_size)
    return ImageSet(
        images=ordered,
        source=str(path),
        chip=agreed,
        flash_mode=manifest.flash_mode,
        flash_freq=manifest.flash_freq,
        flash_size=manifest.flash_size,
    )


def _read_part(tree: FileTree, manifest_name: str, file: str, said_by: str, manifest: Manifest) -> bytes:
    folder = posixpath.dirname(manifest_name)
    free = not manifest.confined and isinstance(tree, FolderTree)
    name = posixpath.join(folder, file) if free else join_name(folder, file, said_by)
    try:
        return tree.read(name, confined=not free)
    except FirmwareError as error:
        raise FirmwareError(f"{said_by}: {error}") from error


def _from_binary(data: bytes, name: str, where: str, path: Path, chip: str | None) -> ImageSet:
    merged = FlashImage(name=name, offset=0, data=_trimmed(data))
    content = FlashContent([merged])
    try:
        whole = bool(merged.data) and content.bootloader_offset() is not None and bool(content.partitions())
    except FirmwareError as error:
        raise FirmwareError(f"{where}: {error}") from error
    if not whole:
        raise FirmwareError(_not_merged(data, where))
    ordered, agreed = checked([merged], where, [("the chip asked for", chip)], None)
    return ImageSet(images=ordered, source=str(path), chip=agreed)


def _trimmed(data: bytes) -> bytes:
    """Drop the erased rest of a merged file, keeping whole words."""
    used = len(data.rstrip(_ERASED))
    return data[: min(len(data), -(-used // _WORD) * _WORD)]


def _not_merged(data: bytes, where: str) -> str:
    if not data.strip(_ERASED):
        return f"{where} is empty or erased flash; {_WAYS}."
    app = AppDescription.unpack(data[HEADER_SIZE + SEGMENT_HEADER_SIZE :]) if data[0] == IMAGE_MAGIC else None
    if app is not None:
        return (
            f"{where} is the application {app.project_name} {app.version} alone, which does not say where in the flash"
            f" it belongs; {_WAYS}."
        )
    return f"{where} is no merged firmware: it has no bootloader with a partition table behind it; {_WAYS}."
