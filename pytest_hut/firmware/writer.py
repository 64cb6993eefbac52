"""Write ESP images laid out as ESP-IDF's build does it.

Mapped segments must lie in the image at their address modulo the MMU page; the gaps in front of them are filled
with the RAM segments, split where necessary, and with padding segments at address 0 when there are none left.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import CHIPS, MMU_PAGE
from pytest_hut.firmware.descriptors import AppDescription
from pytest_hut.firmware.image import (
    CHECKSUM_SEED,
    HEADER_SIZE,
    IMAGE_MAGIC,
    MAX_SEGMENT_SIZE,
    MAX_SEGMENTS,
    REVISION_UNLIMITED,
    SEGMENT_HEADER_SIZE,
    SPI_MODES,
    ImageHeader,
    checksum_position,
    pack_segment_header,
    xor_checksum,
)

_WP_PIN_DISABLED = 0xEE
_LAST_PAGE_ROOM = 0x24
"""The ESP32's bootloader does not map the last page of a segment that reaches less than this far into it."""


@dataclass(frozen=True)
class SpiSettings:
    """The flash settings of the image header: mode by name, frequency by the chip's code, size in MiB."""

    mode: str = "dio"
    freq_code: int = 0xF
    size_mib: int = 4


def write_image(
    segments: Sequence[tuple[int, bytes]],
    chip: str,
    entry: int,
    *,
    app: AppDescription | None = None,
    min_chip_revision: tuple[int, int] = (0, 0),
    max_chip_revision: tuple[int, int] | None = None,
    spi: SpiSettings = SpiSettings(),
    append_hash: bool = True,
) -> bytes:
    """Return an image of the given (address, data) segments with valid checksum and hash.

    `app` is placed at the start of the first mapped segment. Data is padded to four bytes. Mapped segments come in
    the order given, as do RAM segments, which fill the gaps between them.
    Raises FirmwareError when the segments cannot make an image: too many, too large, none to hold `app`.
    """
    layout = CHIPS[chip]
    mapped = deque((address, _pad(data)) for address, data in segments if layout.is_mapped(address))
    loaded = deque((address, _pad(data)) for address, data in segments if not layout.is_mapped(address))
    if app is not None:
        if not mapped:
            raise FirmwareError("An application needs a flash-mapped segment to hold its descriptor.")
        address, data = mapped.popleft()
        mapped.appendleft((address, app.pack() + data))
    placed = _place(mapped, loaded, workaround=chip == "esp32")
    if len(placed) > MAX_SEGMENTS:
        raise FirmwareError(f"The image would have {len(placed)} segments, {MAX_SEGMENTS} at most are possible.")
    major, minor = min_chip_revision
    highest = REVISION_UNLIMITED if max_chip_revision is None else max_chip_revision[0] * 100 + max_chip_revision[1]
    header = ImageHeader(
        magic=IMAGE_MAGIC,
        segment_count=len(placed),
        spi_mode=SPI_MODES.index(spi.mode),
        spi_freq=spi.freq_code,
        spi_size=spi.size_mib.bit_length() - 1,
        entry=entry,
        wp_pin=_WP_PIN_DISABLED,
        spi_drive=bytes(3),
        chip_id=layout.image_id,
        min_revision_legacy=major if chip == "esp32" else minor,
        min_revision_full=major * 100 + minor,
        max_revision_full=highest,
        hash_appended=int(append_hash),
    )
    image = bytearray(header.pack())
    checksum = CHECKSUM_SEED
    for address, data in placed:
        image += pack_segment_header(address, len(data))
        image += data
        checksum = xor_checksum(data, checksum)
    image += bytes(checksum_position(len(image)) - len(image))
    image.append(checksum)
    if append_hash:
        image += hashlib.sha256(image).digest()
    return bytes(image)


def _pad(data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 4)
    if len(padded) >= MAX_SEGMENT_SIZE:
        raise FirmwareError(f"A segment of {len(padded)} bytes is too large for an image.")
    return padded


def _place(
    mapped: deque[tuple[int, bytes]], loaded: deque[tuple[int, bytes]], *, workaround: bool
) -> list[tuple[int, bytes]]:
    """Order, split and pad so that every mapped segment lies at its address modulo the page."""
    placed: list[tuple[int, bytes]] = []
    position = HEADER_SIZE
    for mapped_address, mapped_data in mapped:
        while gap := (mapped_address - SEGMENT_HEADER_SIZE - position) % MMU_PAGE:
            room = gap - SEGMENT_HEADER_SIZE
            if room < 0:
                room += MMU_PAGE
            address, data = loaded.popleft() if loaded and room else (0, bytes(room))
            if len(data) > room:
                loaded.appendleft((address + room, data[room:]))
                data = data[:room]
            placed.append((address, data))
            position += SEGMENT_HEADER_SIZE + len(data)
        behind = (position + SEGMENT_HEADER_SIZE + len(mapped_data)) % MMU_PAGE
        if workaround and behind < _LAST_PAGE_ROOM:
            mapped_data += bytes(_LAST_PAGE_ROOM - behind)
        placed.append((mapped_address, mapped_data))
        position += SEGMENT_HEADER_SIZE + len(mapped_data)
    return placed + list(loaded)
