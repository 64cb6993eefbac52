"""Partition tables and OTA data as ESP-IDF lays them out in flash.

Sources: ESP-IDF's documents "Partition Tables" and "Over The Air Updates", and esp_flash_partitions.h. A table is
a row of 32-byte entries, then an entry with the MD5 of those before it, then erased flash.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pytest_hut.errors import FirmwareError

TABLE_OFFSET = 0x8000
"""Bytes from the start of the flash; ESP-IDF's default, and the product's."""
TABLE_SIZE = 0xC00
ENTRY_SIZE = 32
SECTOR = 0x1000
OTADATA_SIZE = 2 * SECTOR

TYPE_APP = 0x00
TYPE_DATA = 0x01
SUBTYPE_FACTORY = 0x00
SUBTYPE_TEST = 0x20
SUBTYPE_OTADATA = 0x00
_OTA_APPS = range(0x10, 0x20)

_ENTRY = struct.Struct("<HBBII16sI")
_ENTRY_MAGIC = 0x50AA
_MD5_MAGIC = 0xEBEB
_MD5_HEAD = b"\xeb\xeb" + b"\xff" * 14
_END_MAGIC = 0xFFFF
_OTADATA = struct.Struct("<I20sII")
_ERASED = 0xFFFFFFFF

_DATA_USAGE = {0x00: "OTA data", 0x01: "RF data", 0x02: "WiFi data", 0x04: "NVS keys", 0x05: "efuse"}


@dataclass(frozen=True)
class Partition:
    """One entry. `offset` and `size` are bytes of flash; `flags` bit 0 asks for encryption."""

    label: str
    type: int
    subtype: int
    offset: int
    size: int
    flags: int = 0

    @property
    def ota_slot(self) -> int | None:
        """The number n of an `ota_n` application partition."""
        return self.subtype - _OTA_APPS.start if self.type == TYPE_APP and self.subtype in _OTA_APPS else None

    @property
    def usage(self) -> str:
        """What the bootloader calls it in the table it prints."""
        if self.type == TYPE_DATA:
            return _DATA_USAGE.get(self.subtype, "Unknown data")
        if self.type != TYPE_APP:
            return "unknown"
        if self.ota_slot is not None:
            return "OTA app"
        return {SUBTYPE_FACTORY: "factory app", SUBTYPE_TEST: "test app"}.get(self.subtype, "Unknown app")

    def pack(self) -> bytes:
        """Return the 32 bytes of the entry; a label of more than 15 bytes raises FirmwareError."""
        label = self.label.encode("utf-8")
        if len(label) > 15:
            raise FirmwareError(f"The partition label {self.label!r} is longer than 15 bytes.")
        return _ENTRY.pack(_ENTRY_MAGIC, self.type, self.subtype, self.offset, self.size, label, self.flags)


def parse_partition_table(data: bytes, flash_size: int | None = None) -> tuple[Partition, ...]:
    """Parse the table at the start of `data`, verifying its MD5 where it has one.

    `flash_size` (bytes), when given, limits the partitions. Raises FirmwareError; its text is what the bootloader
    prints in this case.
    """
    partitions: list[Partition] = []
    md5_found = False
    for start in range(0, min(len(data), TABLE_SIZE) - ENTRY_SIZE + 1, ENTRY_SIZE):
        magic, kind, subtype, offset, size, label, flags = _ENTRY.unpack_from(data, start)
        if magic == _ENTRY_MAGIC:
            if flash_size is not None and offset + size > flash_size:
                raise FirmwareError(
                    f"partition {len(partitions)} invalid - offset {offset:#x} size {size:#x}"
                    f" exceeds flash chip size {flash_size:#x}"
                )
            name = label.split(b"\0", 1)[0].decode("utf-8", "replace")
            partitions.append(Partition(name, kind, subtype, offset, size, flags))
        elif magic == _MD5_MAGIC:
            if md5_found:
                raise FirmwareError("Only one MD5 checksum is allowed")
            md5_found = True
            if data[start + 16 : start + ENTRY_SIZE] != hashlib.md5(data[:start], usedforsecurity=False).digest():
                raise FirmwareError("Incorrect MD5 checksum")
        elif magic == _END_MAGIC and kind == subtype == 0xFF:
            return tuple(partitions)
        else:
            raise FirmwareError(f"partition {len(partitions)} invalid magic number 0x{magic:x}")
    raise FirmwareError("partition table has no terminating entry, not valid")


def build_partition_table(partitions: Sequence[Partition]) -> bytes:
    """Return a table of 0xC00 bytes with its MD5; too many partitions raise FirmwareError."""
    entries = b"".join(partition.pack() for partition in partitions)
    table = entries + _MD5_HEAD + hashlib.md5(entries, usedforsecurity=False).digest()
    if len(table) > TABLE_SIZE - ENTRY_SIZE:
        raise FirmwareError(f"{len(partitions)} partitions do not fit into one table.")
    return table.ljust(TABLE_SIZE, b"\xff")


class OtaState(IntEnum):
    """State of an OTA application, for rollback."""

    NEW = 0
    PENDING_VERIFY = 1
    VALID = 2
    INVALID = 3
    ABORTED = 4
    UNDEFINED = _ERASED


@dataclass(frozen=True)
class OtaEntry:
    """One of the two sectors of the otadata partition: it selects slot (sequence - 1) modulo the number of slots."""

    sequence: int
    state: int
    crc: int

    @property
    def blank(self) -> bool:
        """It selects nothing: erased, or its application was rejected."""
        return self.sequence == _ERASED or self.state in (OtaState.INVALID, OtaState.ABORTED)

    @property
    def valid(self) -> bool:
        """It selects something and its CRC is right."""
        return not self.blank and self.crc == _ota_crc(self.sequence)

    def pack(self) -> bytes:
        """Return the 32 bytes of the entry."""
        return _OTADATA.pack(self.sequence, b"\xff" * 20, self.state, self.crc)


def ota_entries(otadata: bytes) -> tuple[OtaEntry, OtaEntry]:
    """Read both entries; what is missing of a short partition counts as erased."""
    whole = otadata[:OTADATA_SIZE].ljust(OTADATA_SIZE, b"\xff")
    first, second = (_OTADATA.unpack_from(whole, offset) for offset in (0, SECTOR))
    return OtaEntry(first[0], first[2], first[3]), OtaEntry(second[0], second[2], second[3])


def select_ota_slot(otadata: bytes, ota_count: int) -> int | None:
    """Return the number of the slot the bootloader would start, None when it falls back to the factory app."""
    valid = [entry for entry in ota_entries(otadata) if entry.valid]
    if not valid or ota_count == 0:
        return None
    return (max(entry.sequence for entry in valid) - 1) % ota_count


def build_otadata(slot: int | None, state: OtaState = OtaState.UNDEFINED) -> bytes:
    """Return 0x2000 bytes that select `slot`, or an erased partition for None."""
    if slot is None:
        return b"\xff" * OTADATA_SIZE
    entry = OtaEntry(slot + 1, state, _ota_crc(slot + 1))
    return entry.pack().ljust(OTADATA_SIZE, b"\xff")


def _ota_crc(sequence: int) -> int:
    """CRC-32 of the little-endian sequence number, with the start value of ESP-IDF's bootloader."""
    return zlib.crc32(struct.pack("<I", sequence), 0xFFFFFFFF)
