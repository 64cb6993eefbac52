"""What lies where once an image set is in the flash: partition table, bootloader, applications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.image import IMAGE_MAGIC
from pytest_hut.firmware.imageset import FlashImage
from pytest_hut.firmware.partitions import SECTOR, TABLE_OFFSET, TABLE_SIZE, TYPE_APP, Partition, parse_partition_table

_TABLE_MAGIC = b"\xaa\x50"
_LAST_TABLE_OFFSET = 0x20000
_BOOTLOADER_OFFSETS = (0x0, 0x1000, 0x2000)


@dataclass(frozen=True)
class FlashContent:
    """Images laid over erased flash."""

    images: Sequence[FlashImage]

    def at(self, offset: int, limit: int) -> bytes | None:
        """Return what one image puts at `offset`, at most `limit` bytes; None when no image covers that address."""
        for image in self.images:
            if image.offset <= offset < image.end:
                start = offset - image.offset
                return image.data[start : start + limit]
        return None

    def partitions(self) -> tuple[Partition, ...]:
        """Return the partition table, at 0x8000 or wherever the project moved it; () when there is none.

        Raises FirmwareError when the table at 0x8000 is damaged.
        """
        standard = self.at(TABLE_OFFSET, TABLE_SIZE)
        if standard is not None and standard.startswith(_TABLE_MAGIC):
            try:
                return parse_partition_table(standard)
            except FirmwareError as error:
                raise FirmwareError(f"the partition table at {TABLE_OFFSET:#x} is bad ({error}).") from error
        for offset in range(0, _LAST_TABLE_OFFSET + 1, SECTOR):
            data = self.at(offset, TABLE_SIZE)
            if data is not None and data.startswith(_TABLE_MAGIC):
                try:
                    return parse_partition_table(data)
                except FirmwareError:
                    continue  # two bytes that look like a table, inside something else
        return ()

    def app_partitions(self) -> tuple[Partition, ...]:
        """Return the application partitions of the table."""
        return tuple(partition for partition in self.partitions() if partition.type == TYPE_APP)

    def bootloader_offset(self) -> int | None:
        """Return where a second-stage bootloader lies, None when the set has none."""
        for offset in _BOOTLOADER_OFFSETS:
            if (self.at(offset, 1) or b"") == bytes([IMAGE_MAGIC]):
                return offset
        return None
