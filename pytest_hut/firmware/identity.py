"""Who a firmware is: what its board will print about itself after it booted.

Sources: ESP-IDF's documents "Bootloader" (which application is started) and "App Image Format" (the descriptor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.descriptors import AppDescription
from pytest_hut.firmware.image import EspImage, parse_image
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.layout import FlashContent
from pytest_hut.firmware.partitions import (
    OTADATA_SIZE,
    SUBTYPE_FACTORY,
    SUBTYPE_OTADATA,
    SUBTYPE_TEST,
    TYPE_DATA,
    Partition,
    select_ota_slot,
)


@dataclass(frozen=True)
class FirmwareIdentity:
    """The identity of an image set. The texts are those of the application that will boot, None when unknown."""

    chip: str | None
    content_sha256: str
    """Hex SHA-256 over offsets and contents of all images."""
    boot_partition: str | None
    """Label of the partition whose application will start; None when the set has no application that can."""
    project: str | None
    version: str | None
    idf_version: str | None
    elf_sha256: str | None
    """64 hex digits; all zero when the build did not fill it in. The board prints the first 9 or 16 of them."""
    apps: Mapping[str, AppDescription]
    """All undamaged applications with a descriptor, by partition label (`0x10000` where there is no table)."""


def describe(image_set: ImageSet) -> FirmwareIdentity:
    """Work out what will boot once `image_set` is in an otherwise erased flash.

    As the bootloader does, the application that otadata selects comes first, the others take its place when it is
    missing or damaged. Otadata that the set does not contain counts as erased. Raises FirmwareError when the
    partition table is damaged.
    """
    content = FlashContent(image_set.images)
    partitions = content.partitions()
    if partitions:
        order = _boot_order(content, partitions)
        images = {p.label: image for p in order if (image := _app_in(content, p)) is not None}
    else:
        loose = [(f"{image.offset:#x}", _parsed(image)) for image in image_set.images]
        images = {label: image for label, image in loose if image is not None and image.app is not None}
    apps = {label: image.app for label, image in images.items() if image.app is not None}
    boots = next(iter(images), None)
    app = apps.get(boots) if boots is not None else None
    return FirmwareIdentity(
        chip=image_set.chip or next((image.chip for image in images.values()), None),
        content_sha256=image_set.content_sha256,
        boot_partition=boots,
        project=app.project_name if app else None,
        version=app.version if app else None,
        idf_version=app.idf_version if app else None,
        elf_sha256=app.elf_sha256 if app else None,
        apps=apps,
    )


def _boot_order(content: FlashContent, partitions: tuple[Partition, ...]) -> list[Partition]:
    """Return the application partitions in the order in which the bootloader tries them."""
    apps = content.app_partitions()
    slots = sorted((p for p in apps if p.ota_slot is not None), key=lambda p: p.ota_slot or 0)
    factory = [p for p in apps if p.subtype == SUBTYPE_FACTORY]
    test = [p for p in apps if p.subtype == SUBTYPE_TEST]
    otadata = next((p for p in partitions if (p.type, p.subtype) == (TYPE_DATA, SUBTYPE_OTADATA)), None)
    selection = content.at(otadata.offset, OTADATA_SIZE) if otadata else None
    selected = select_ota_slot(selection, len(slots)) if selection else None
    if selected is None:
        return [*factory, *slots, *test]
    # From the selected slot down to the factory app, then up.
    return [*reversed(slots[: selected + 1]), *factory, *slots[selected + 1 :], *test]


def _app_in(content: FlashContent, partition: Partition) -> EspImage | None:
    data = content.at(partition.offset, partition.size)
    if data is None:
        return None
    try:
        return parse_image(data)
    except FirmwareError:
        return None  # the bootloader passes over it just so


def _parsed(image: FlashImage) -> EspImage | None:
    try:
        return parse_image(image.data)
    except FirmwareError:
        return None
