"""How the bootloader verifies an application image in flash: segment by segment, then checksum and hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pytest_hut.firmware.chips import CHIPS, MMU_PAGE
from pytest_hut.firmware.image import (
    CHECKSUM_SEED,
    HEADER_SIZE,
    IMAGE_MAGIC,
    MAX_SEGMENT_SIZE,
    MAX_SEGMENTS,
    SEGMENT_HEADER_SIZE,
    SHA256_SIZE,
    ImageHeader,
    checksum_position,
    unpack_segment_header,
    xor_checksum,
)
from pytest_hut.firmware.partitions import Partition
from pytest_hut.virtual.machine import Machine
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.rom import chip_revision

_TAG = "esp_image"
_OPEN_S = 0.005
_VERIFY_S_PER_BYTE = 0.15e-6


@dataclass(frozen=True)
class CheckedApp:
    """A bootable application: its header and the data of its first mapped segment."""

    header: ImageHeader
    rodata: bytes


def chip_can_run(out: Output, header: ImageHeader) -> bool:
    """Compare chip and revision with what an image asks for, and print the complaint if they do not fit."""
    spec = out.machine.spec
    expected = CHIPS[spec.chip].image_id
    if header.chip_id != expected:
        out.error("boot_comm", f"mismatch chip ID, expected {expected}, found {header.chip_id}")
        return False
    revision = chip_revision(spec)
    if revision < header.min_revision:
        wanted, there = ("v{}.{}".format(*pair) for pair in (header.min_revision, revision))
        out.error("boot_comm", f"Image requires chip rev >= {wanted}, but chip is {there}")
        return False
    return True


def read_flash(machine: Machine, offset: int, length: int) -> bytes:
    """Read flash; behind the end of the chip there are only erased bytes."""
    there = max(0, min(length, machine.flash.size - offset))
    return (machine.flash.read(offset, there) if there else b"").ljust(length, b"\xff")


def check_app(out: Output, partition: Partition) -> CheckedApp | None:
    """Verify the image in a partition, printing what the bootloader prints; None when it is not bootable.

    Every byte of the flash is read once.
    """
    out.sleep(_OPEN_S)
    raw = read_flash(out.machine, partition.offset, HEADER_SIZE)
    header = ImageHeader.unpack(raw)
    if header.magic != IMAGE_MAGIC:
        out.error(_TAG, f"image at {partition.offset:#x} has invalid magic byte (nothing flashed here?)")
        return None
    if not chip_can_run(out, header):
        return None
    if header.segment_count > MAX_SEGMENTS:
        out.error(
            _TAG, f"image at {partition.offset:#x} segment count {header.segment_count} exceeds max {MAX_SEGMENTS}"
        )
        return None
    return _check_content(out, partition, header, raw)


def _check_content(out: Output, partition: Partition, header: ImageHeader, raw_header: bytes) -> CheckedApp | None:
    machine = out.machine
    layout = CHIPS[machine.spec.chip]
    digest = hashlib.sha256(raw_header)
    checksum = CHECKSUM_SEED
    length = HEADER_SIZE
    rodata: bytes | None = None
    for index in range(header.segment_count):
        segment_header = read_flash(machine, partition.offset + length, SEGMENT_HEADER_SIZE)
        address, size = unpack_segment_header(segment_header)
        length += SEGMENT_HEADER_SIZE
        position = partition.offset + length
        mapped = layout.is_mapped(address)
        if size % 4 or size >= MAX_SEGMENT_SIZE:
            out.error(_TAG, f"invalid segment length {size:#x}")
            return None
        if mapped and address % MMU_PAGE != position % MMU_PAGE:
            out.error(_TAG, f"Segment {index} load address 0x{address:08x}, doesn't match data 0x{position:08x}")
            return None
        use = "map" if mapped else "load" if address else ""
        out.info(_TAG, f"segment {index}: paddr={position:08x} vaddr={address:08x} size={size:05x}h ({size:6d}) {use}")
        data = read_flash(machine, position, size)
        out.sleep(size * _VERIFY_S_PER_BYTE)
        digest.update(segment_header)
        digest.update(data)
        checksum = xor_checksum(data, checksum)
        length += size
        if mapped and rodata is None:
            rodata = data
    tail = read_flash(machine, partition.offset + length, checksum_position(length) + 1 - length)
    digest.update(tail)
    length += len(tail)
    if tail[-1] != checksum:
        out.error(_TAG, f"Checksum failed. Calculated {checksum:#x} read {tail[-1]:#x}")
        return None
    whole = length + (SHA256_SIZE if header.hash_appended else 0)
    if whole > partition.size:
        out.error(_TAG, f"Image length {whole} doesn't fit in partition length {partition.size}")
        return None
    if header.hash_appended and read_flash(machine, partition.offset + length, SHA256_SIZE) != digest.digest():
        out.error(_TAG, "Image hash failed - image is corrupt")
        return None
    return CheckedApp(header, rodata or b"")
