"""The ELF files that firmware was linked from: found beside it, and told from others by their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pytest_hut.firmware.identity import describe
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.trees import FileTree, FolderTree, ZipTree

_DEEPEST = 2


def elf_files_of(images: ImageSet, path: Path) -> list[bytes]:
    """Return those files ending in `.elf` in a folder or zip archive that the images say they were made of.

    Of anything else (a manifest, a merged file) they are looked for right beside it. Raises FirmwareError.
    """
    wanted = {app.elf_sha256 for app in describe(images).apps.values()}
    archive = _is_zip(path)
    tree: FileTree = ZipTree(path) if archive else FolderTree(path if path.is_dir() else path.parent)
    found: dict[str, bytes] = {}
    for depth in range(_DEEPEST + 1 if archive or path.is_dir() else 1):
        for name in tree.names(depth):
            if name.lower().endswith(".elf"):
                data = tree.read(name)
                digest = hashlib.sha256(data).hexdigest()
                if digest in wanted:
                    found[digest] = data
    return list(found.values())


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
