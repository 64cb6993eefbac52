"""Firmware of a commit in a folder that others fill: a store of theirs, or one build per commit."""

from __future__ import annotations

from pathlib import Path

from pytest_hut.errors import FirmwareMissing
from pytest_hut.firmware.elf_files import elf_files_of
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.sources import load_firmware
from pytest_hut.firmware.store_entry import MANIFEST, read_elfs, read_entry


def firmware_in_folder(folder: Path, commit: str, chip: str) -> tuple[ImageSet, list[bytes]]:
    """Return the images and ELF files of a commit from `<commit>/<chip>` of a store, `<commit>/`, or `<commit>.zip`.

    Nothing is written or locked there, so it may be mounted read-only.

    Raises:
        FirmwareMissing: there is none.
        FirmwareError: it is damaged, or for another chip.
    """
    entry_folder = folder / commit / chip
    if (entry_folder / MANIFEST).is_file():
        entry, images = read_entry(entry_folder)
        return images, read_elfs(entry_folder, entry)
    for path in (folder / commit, folder / f"{commit}.zip"):
        if path.exists() and not any(path.glob(f"*/{MANIFEST}")):
            images = load_firmware(path, chip)
            return images, elf_files_of(images, path)
    raise FirmwareMissing(f"{folder} has no firmware of commit {commit} for {chip}")
