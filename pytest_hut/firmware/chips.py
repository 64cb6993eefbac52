"""What the image formats need to know of each chip: ids, flash-mapped address ranges, where the bootloader lies.

Source: Espressif's firmware image format document and the memory maps in the technical reference manuals.
"""

from __future__ import annotations

from dataclasses import dataclass

MMU_PAGE = 0x10000
"""Bytes of one page of the flash cache: mapped segments keep their address modulo this in the flash."""


@dataclass(frozen=True)
class ChipLayout:
    """The facts of one chip. `name` is esptool's name of it."""

    name: str
    image_id: int
    """The chip id of the extended image header."""
    bootloader_offset: int
    """Bytes from the start of the flash."""
    mapped: tuple[tuple[int, int], ...]
    """Address ranges (first, behind last) that the flash cache serves: segments there are mapped, not loaded."""

    def is_mapped(self, address: int) -> bool:
        """Tell whether a segment at this address stays in the flash and is mapped."""
        return any(first <= address < behind for first, behind in self.mapped)


CHIPS: dict[str, ChipLayout] = {
    chip.name: chip
    for chip in (
        ChipLayout("esp32", 0, 0x1000, ((0x3F400000, 0x3F800000), (0x400D0000, 0x40400000))),
        ChipLayout("esp32s2", 2, 0x1000, ((0x3F000000, 0x3F3F0000), (0x40080000, 0x40B80000))),
        ChipLayout("esp32c3", 5, 0x0, ((0x3C000000, 0x3C800000), (0x42000000, 0x42800000))),
        ChipLayout("esp32s3", 9, 0x0, ((0x3C000000, 0x3E000000), (0x42000000, 0x44000000))),
        ChipLayout("esp32c2", 12, 0x0, ((0x3C000000, 0x3C400000), (0x42000000, 0x42400000))),
        ChipLayout("esp32c6", 13, 0x0, ((0x42000000, 0x43000000),)),
        ChipLayout("esp32h2", 16, 0x0, ((0x42000000, 0x43000000),)),
        ChipLayout("esp32p4", 18, 0x2000, ((0x40000000, 0x4C000000),)),
        ChipLayout("esp32c61", 20, 0x0, ((0x42000000, 0x44000000),)),
        ChipLayout("esp32c5", 23, 0x2000, ((0x42000000, 0x44000000),)),
        ChipLayout("esp32h21", 25, 0x0, ((0x42000000, 0x43000000),)),
        ChipLayout("esp32h4", 28, 0x2000, ((0x42000000, 0x44000000),)),
        ChipLayout("esp32e22", 31, 0x0, ((0x3C000000, 0x40000000),)),
        ChipLayout("esp32s31", 32, 0x2000, ((0x40000000, 0x54000000),)),
    )
}

CHIP_OF_ID: dict[int, ChipLayout] = {chip.image_id: chip for chip in CHIPS.values()}
