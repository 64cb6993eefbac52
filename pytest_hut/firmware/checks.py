"""Everything that can be known to be wrong with an image set before a board is touched."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import CHIPS
from pytest_hut.firmware.image import IMAGE_MAGIC, parse_image
from pytest_hut.firmware.imageset import FlashImage
from pytest_hut.firmware.layout import FlashContent
from pytest_hut.firmware.partitions import Partition
from pytest_hut.firmware.trees import MAX_FLASH

_UNITS = {"KB": 1 << 10, "MB": 1 << 20}
_ERASED = 0xFF


def checked(
    images: Sequence[FlashImage], where: str, claims: Sequence[tuple[str, str | None]], flash_size: str | None
) -> tuple[tuple[FlashImage, ...], str | None]:
    """Return the images sorted by offset, and the chip that they and all claims agree on.

    `claims` are pairs of who says so and the chip named (None claims nothing). `flash_size` is esptool's word, e.g.
    `4MB`; without it the bootloader's header counts. Raises FirmwareError with the first thing that is wrong.
    """
    if not images:
        raise FirmwareError(f"{where} names no file to flash.")
    ordered = tuple(sorted(images, key=lambda image: image.offset))
    for image in ordered:
        if not image.data:
            raise FirmwareError(f"{image.name} (for {image.offset:#x}) in {where} is empty; build the firmware anew.")
    for first, second in itertools.pairwise(ordered):
        if first.end > second.offset:
            raise FirmwareError(
                f"{where}: {first.name} ({first.offset:#x} to {first.end:#x}) overlaps {second.name}"
                f" at {second.offset:#x}; correct the offsets."
            )
    content = FlashContent(ordered)
    found, size = _check_bootloader(content, where, _bytes_of(flash_size, where))
    if ordered[-1].end > size:
        raise FirmwareError(
            f"{where}: {ordered[-1].name} ends at {ordered[-1].end:#x}, behind the end of the flash ({size:#x});"
            " correct the offset or build for a larger flash."
        )
    found += _check_apps(content, ordered, where, size)
    return ordered, _agreed([*claims, *found], where)


def _bytes_of(flash_size: str | None, where: str) -> int | None:
    if flash_size is None:
        return None
    digits, unit = flash_size[:-2], flash_size[-2:].upper()
    if not digits.isdecimal() or unit not in _UNITS:
        raise FirmwareError(f"{where}: the flash size {flash_size!r} is none like 4MB.")
    return int(digits) * _UNITS[unit]


def _check_bootloader(content: FlashContent, where: str, size: int | None) -> tuple[list[tuple[str, str | None]], int]:
    offset = content.bootloader_offset()
    if offset is None:
        return [], size or MAX_FLASH
    name = f"the bootloader at {offset:#x}"
    try:
        image = parse_image(content.at(offset, MAX_FLASH) or b"")
    except FirmwareError as error:
        raise FirmwareError(f"{where}: {name} cannot be used. {error}") from error
    right = CHIPS[image.chip].bootloader_offset
    if offset != right:
        raise FirmwareError(
            f"{where}: {name} is for the {image.chip}, whose ROM looks for it at {right:#x}; correct the offset."
        )
    return [(name, image.chip)], size or image.header.flash_size


def _check_apps(
    content: FlashContent, images: Sequence[FlashImage], where: str, size: int
) -> list[tuple[str, str | None]]:
    try:
        partitions = content.partitions()
    except FirmwareError as error:
        raise FirmwareError(f"{where}: {error}") from error
    for partition in partitions:
        if partition.offset + partition.size > size:
            raise FirmwareError(
                f"{where}: the partition {partition.label} ends at {partition.offset + partition.size:#x}, behind the"
                f" end of the flash ({size:#x}); use the partition table of this flash size."
            )
    apps = content.app_partitions()
    found = [_check_app(content, images, partition, where) for partition in apps]
    if not partitions:
        found = [
            _verified(image.data, f"{image.name} at {image.offset:#x}", where) for image in images if _is_app(image)
        ]
    return [claim for claim in found if claim is not None]


def _is_app(image: FlashImage) -> bool:
    return image.offset > 0x8000 and image.data[0] == IMAGE_MAGIC


def _check_app(
    content: FlashContent, images: Sequence[FlashImage], partition: Partition, where: str
) -> tuple[str, str | None] | None:
    for image in images:
        if image.offset == partition.offset and len(image.data) > partition.size:
            raise FirmwareError(
                f"{where}: {image.name} has {len(image.data)} bytes, but the partition {partition.label} at"
                f" {partition.offset:#x} only {partition.size}; use another partition table."
            )
    data = content.at(partition.offset, partition.size)
    # Nothing there, or a merged file's filling: the partition stays empty.
    if data is None or data[0] == _ERASED:
        return None
    return _verified(data, f"the app for {partition.label} at {partition.offset:#x}", where)


def _verified(data: bytes, name: str, where: str) -> tuple[str, str | None]:
    try:
        return name, parse_image(data).chip
    except FirmwareError as error:
        raise FirmwareError(f"{where}: {name} cannot be used. {error}") from error


def _agreed(claims: Sequence[tuple[str, str | None]], where: str) -> str | None:
    named = [(who, chip) for who, chip in claims if chip is not None]
    if not named:
        return None
    first_who, first = named[0]
    for who, chip in named[1:]:
        if chip != first:
            raise FirmwareError(
                f"{where}: {first_who} is for the {first}, {who} for the {chip}; take the firmware built for the chip."
            )
    return first
