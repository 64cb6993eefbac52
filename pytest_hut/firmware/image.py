"""The ESP image format: what bootloaders and applications look like in flash.

Source: Espressif's "Firmware Image Format" (esptool documentation). An image is a header of 24 bytes, up to 16
segments of eight header bytes and data each, padding up to a checksum byte that ends a 16-byte block, and, when
the header says so, the SHA-256 of all of it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import CHIP_OF_ID, ChipLayout
from pytest_hut.firmware.descriptors import AppDescription, BootloaderDescription

IMAGE_MAGIC = 0xE9
HEADER_SIZE = 24
SEGMENT_HEADER_SIZE = 8
MAX_SEGMENTS = 16
MAX_SEGMENT_SIZE = 16 * 1024 * 1024
CHECKSUM_SEED = 0xEF
SHA256_SIZE = 32
REVISION_UNLIMITED = 0xFFFF
"""Value of the maximal chip revision that means there is none."""

SPI_MODES = ("qio", "qout", "dio", "dout")
_BOOTLOADER_SEARCH = 128 * 1024

_HEADER = struct.Struct("<BBBBIB3sHBHH4xB")
_SEGMENT = struct.Struct("<II")


@dataclass(frozen=True)
class ImageHeader:
    """The first 24 bytes, numbers as they stand there."""

    magic: int
    segment_count: int
    spi_mode: int
    spi_freq: int
    """The chip's own code of the flash frequency (a nibble)."""
    spi_size: int
    """log2 of the flash size in MiB (a nibble)."""
    entry: int
    wp_pin: int
    spi_drive: bytes
    """Three bytes of drive strengths: clk and q, d and cs, hd and wp, a nibble each, the first named one low."""
    chip_id: int
    min_revision_legacy: int
    min_revision_full: int
    max_revision_full: int
    hash_appended: int

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> ImageHeader:
        """Read a header; fewer than 24 bytes raise FirmwareError, values are not judged."""
        if len(data) < HEADER_SIZE:
            raise FirmwareError(f"The image is cut short: {len(data)} bytes, and the header alone has {HEADER_SIZE}.")
        magic, count, mode, size_freq, *rest = _HEADER.unpack_from(data)
        return cls(magic, count, mode, size_freq & 0xF, size_freq >> 4, *rest)

    def pack(self) -> bytes:
        """Return the 24 bytes."""
        return _HEADER.pack(
            self.magic,
            self.segment_count,
            self.spi_mode,
            self.spi_size << 4 | self.spi_freq,
            self.entry,
            self.wp_pin,
            self.spi_drive,
            self.chip_id,
            self.min_revision_legacy,
            self.min_revision_full,
            self.max_revision_full,
            self.hash_appended,
        )

    @property
    def flash_size(self) -> int:
        """Bytes of flash the image was built for."""
        return 1024 * 1024 << self.spi_size

    @property
    def min_revision(self) -> tuple[int, int]:
        """Least chip revision (major, minor). Old tools fill in only the legacy byte: the ESP32's major, else minor."""
        legacy = self.min_revision_legacy * (100 if self.chip_id == 0 else 1)
        return divmod(self.min_revision_full or legacy, 100)


@dataclass(frozen=True)
class Segment:
    """One segment: where its data lies in the image (`offset`), where it belongs (`address`), `size` in bytes."""

    offset: int
    address: int
    size: int
    mapped: bool
    """It stays in the flash; otherwise it is loaded into RAM, or is padding at address 0."""


@dataclass(frozen=True)
class EspImage:
    """A whole and undamaged image. `app` is there for applications, `bootloader` for second-stage bootloaders."""

    chip: str
    """esptool's chip name."""
    size: int
    """Bytes from the header to the end of checksum or hash; whatever follows does not belong to the image."""
    header: ImageHeader
    segments: tuple[Segment, ...]
    sha256: str | None
    """The appended hash in hex, None when the image has none."""
    app: AppDescription | None
    bootloader: BootloaderDescription | None

    @property
    def min_chip_revision(self) -> tuple[int, int]:
        """Least chip revision the image runs on, (major, minor)."""
        return self.header.min_revision


def parse_image(data: bytes) -> EspImage:
    """Parse and verify the image at the start of `data`; more may follow it.

    Raises FirmwareError with the reason: no image, cut short, unknown chip, wrong checksum, wrong hash.
    """
    header = ImageHeader.unpack(data)
    if header.magic != IMAGE_MAGIC:
        raise FirmwareError(f"This is no ESP image: it begins with {header.magic:#04x}, not {IMAGE_MAGIC:#04x}.")
    if header.segment_count > MAX_SEGMENTS:
        raise FirmwareError(f"The image is damaged: it claims {header.segment_count} segments, {MAX_SEGMENTS} at most.")
    if header.hash_appended > 1:
        raise FirmwareError(f"The image is damaged: its hash flag is {header.hash_appended}, neither 0 nor 1.")
    chip = CHIP_OF_ID.get(header.chip_id)
    if chip is None:
        raise FirmwareError(f"The image is for a chip with the unknown id {header.chip_id}.")
    view = memoryview(data)
    segments = _parse_segments(view, header.segment_count, chip)
    behind = segments[-1].offset + segments[-1].size if segments else HEADER_SIZE
    end = _verify_checksum(view, segments, behind)
    digest = _verify_hash(view, end) if header.hash_appended else None
    app = next((AppDescription.unpack(_data_of(view, s)) for s in segments if s.mapped), None)
    bootloader = None
    if segments and not any(segment.mapped for segment in segments):
        bootloader = BootloaderDescription.find(_data_of(view, segments[0]), data[: min(end, _BOOTLOADER_SEARCH)])
    size = end + (SHA256_SIZE if digest else 0)
    return EspImage(chip.name, size, header, segments, digest, app, bootloader)


def unpack_segment_header(data: bytes | memoryview) -> tuple[int, int]:
    """Return (address, size) from the eight bytes before a segment's data."""
    address, size = _SEGMENT.unpack_from(data)
    return address, size


def pack_segment_header(address: int, size: int) -> bytes:
    """Return the eight bytes that precede a segment's data."""
    return _SEGMENT.pack(address, size)


def checksum_position(end_of_segments: int) -> int:
    """Return where the checksum byte stands: the last byte of the 16-byte block that the segments end in."""
    return end_of_segments | 15


def xor_checksum(data: bytes | memoryview, seed: int = CHECKSUM_SEED) -> int:
    """Return `seed` XOR all bytes of `data`, folding big integers so that the work is done in C."""
    count = len(data)
    folded = int.from_bytes(data, "little")
    while count > 1:
        half = (count + 1) // 2
        folded = (folded >> 8 * half) ^ (folded & ((1 << 8 * half) - 1))
        count = half
    return folded ^ seed


def _data_of(view: memoryview, segment: Segment) -> memoryview:
    return view[segment.offset : segment.offset + segment.size]


def _parse_segments(view: memoryview, count: int, chip: ChipLayout) -> tuple[Segment, ...]:
    segments = []
    position = HEADER_SIZE
    for index in range(count):
        offset = position + SEGMENT_HEADER_SIZE
        if offset > len(view):
            raise FirmwareError(f"The image is cut short: it ends before segment {index} of {count}.")
        address, size = unpack_segment_header(view[position:offset])
        if size % 4 or size >= MAX_SEGMENT_SIZE:
            raise FirmwareError(f"The image is damaged: segment {index} has the impossible length {size:#x}.")
        position = offset + size
        if position > len(view):
            missing = position - len(view)
            raise FirmwareError(f"The image is cut short: {missing} bytes of segment {index} are missing.")
        segments.append(Segment(offset, address, size, chip.is_mapped(address)))
    return tuple(segments)


def _verify_checksum(view: memoryview, segments: tuple[Segment, ...], behind: int) -> int:
    position = checksum_position(behind)
    if position >= len(view):
        raise FirmwareError("The image is cut short: its checksum is missing.")
    checksum = CHECKSUM_SEED
    for segment in segments:
        checksum = xor_checksum(_data_of(view, segment), checksum)
    if checksum != view[position]:
        raise FirmwareError(
            f"The image is damaged: its checksum should be {checksum:#04x}, but it carries {view[position]:#04x}."
        )
    return position + 1


def _verify_hash(view: memoryview, end: int) -> str:
    stored = view[end : end + SHA256_SIZE].hex()
    if len(stored) < 2 * SHA256_SIZE:
        raise FirmwareError("The image is cut short: its SHA-256 is missing.")
    if hashlib.sha256(view[:end]).hexdigest() != stored:
        raise FirmwareError("The image is damaged: its SHA-256 does not match its content.")
    return stored
