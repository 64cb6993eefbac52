"""What a host learns about the chip it talks to: identity, revision, MAC address, flash chip, crystal.

Addresses and eFuse fields are those of the chips' technical reference manuals, as far as esptool reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pytest_hut.virtual.registers import Registers, SpiFlashChip, SpiLayout, bit_fields, words_at

CHIP_MAGIC_REGISTER = 0x40001000
"""A word of ROM that differs by chip: how chips without security info are told apart."""

# Of GET_SECURITY_INFO (ESP-IDF's and esptool's documents "Secure Boot", "Serial Protocol").
_SECURE_DOWNLOAD_ENABLE = 1 << 2
_XTS_AES_128_KEY = 4

Revision = tuple[int, int]
"""(major, minor)"""


@dataclass(frozen=True)
class ChipModel:
    """The facts of one chip that its loader shows."""

    name: str
    """esptool's name of the chip."""
    image_chip_id: int
    """The chip id in the extended header of application images, and in the security info."""
    magic: int
    """Content of `CHIP_MAGIC_REGISTER`."""
    common_revision: Revision
    """The revision of a board whose spec names none."""
    max_revision: Revision
    """The largest major and minor the eFuses can hold."""
    has_security_info: bool
    """The ROM knows GET_SECURITY_INFO."""
    uart_clock_divider: int
    """Address of UART0's clock divider register."""
    spi: SpiLayout
    efuses: Callable[[bytes, Revision], dict[int, int]]
    """Registers that hold the given MAC address (six bytes) and revision."""
    crypt_count: tuple[int, int]
    """Register and lowest bit of the count whose odd number of ones means that flash encryption is on."""
    crystal_hz: int = 40_000_000

    def security_info(self, *, flash_encryption: bool, secure_download: bool) -> bytes:
        """Return the 20 bytes of GET_SECURITY_INFO."""
        flags = _SECURE_DOWNLOAD_ENABLE if secure_download else 0
        crypt_count, api_version = int(flash_encryption), 0
        first_key = _XTS_AES_128_KEY if flash_encryption else 0
        key_purposes = (first_key, 0, 0, 0, 0, 0, 12)
        return struct.pack("<IB7BII", flags, crypt_count, *key_purposes, self.image_chip_id, api_version)


def register_map(
    model: ChipModel, mac: bytes, revision: Revision | None, flash_size: int, *, flash_encryption: bool = False
) -> Registers:
    """Return the registers of a chip just out of reset.

    `mac` has six bytes, `flash_size` is in bytes, `revision` None is the chip's common one. Raises ValueError for a
    revision this chip cannot have and for a flash size that is no power of two.
    """
    if len(mac) != 6:
        raise ValueError(f"a MAC address has six bytes, not {len(mac)}")
    major, minor = revision or model.common_revision
    max_major, max_minor = model.max_revision
    if not (0 <= major <= max_major and 0 <= minor <= max_minor):
        raise ValueError(f"{model.name} has no revision v{major}.{minor}: v0.0 to v{max_major}.{max_minor} exist")
    values = model.efuses(mac, (major, minor))
    values[CHIP_MAGIC_REGISTER] = model.magic
    if flash_encryption:
        register, lowest_bit = model.crypt_count
        values[register] = values.get(register, 0) | 1 << lowest_bit
    return Registers(values, model.spi, SpiFlashChip(flash_size))


def _mac_crc(mac: bytes) -> int:
    """CRC-8 with the polynomial 0x31, bits reflected: what the ESP32 keeps beside its MAC address."""
    crc = 0
    for byte in mac:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8C if crc & 1 else 0)
    return crc


def _esp32_efuses(mac: bytes, revision: Revision) -> dict[int, int]:
    major, minor = revision
    # The major revision is unary: as many of three scattered bits are set.
    bit0, bit1, bit2 = major >= 1, major >= 2, major >= 3
    d0wd_package, rated_240_mhz, adc_reference, rc_fast_clock = 1, 1, 5, 50
    fuses = words_at(
        0x3FF5A000,
        {
            1: int.from_bytes(mac[2:], "big"),
            2: bit_fields((int.from_bytes(mac[:2], "big"), 0), (_mac_crc(mac), 16)),
            3: bit_fields((d0wd_package, 9), (rated_240_mhz, 13), (bit0, 15)),
            4: bit_fields((rc_fast_clock, 0), (adc_reference, 8)),
            5: bit_fields((bit1, 20), (minor, 24)),
        },
    )
    apb_ctl_date, rtc_calibration = 0x3FF6607C, 0x3FF5F06C
    # The ROM measured the crystal against the 8 MHz RC clock; this calibration says 40 MHz sharp.
    return fuses | {apb_ctl_date: bit2 << 31, rtc_calibration: 2048 << 7}


def _mac_words(mac: bytes, extension: int) -> dict[int, int]:
    return {
        0: int.from_bytes(mac[2:], "big"),
        1: bit_fields((int.from_bytes(mac[:2], "big"), 0), (extension, 16)),
    }


def _esp32s3_efuses(mac: bytes, revision: Revision) -> dict[int, int]:
    # Block version 1.1 would mean the very first silicon, whatever the revision fields say.
    block_major, block_minor = 1, 2
    block1 = 0x60007044
    block2 = 0x6000705C
    return (
        words_at(block1, _mac_words(mac, 0))
        | words_at(block1, _split_revision(revision, block_minor))
        | words_at(block2, {4: block_major})
    )


def _esp32c3_efuses(mac: bytes, revision: Revision) -> dict[int, int]:
    block1, block_minor = 0x60008844, 3
    return words_at(block1, _mac_words(mac, 0)) | words_at(block1, _split_revision(revision, block_minor))


def _split_revision(revision: Revision, block_minor: int) -> dict[int, int]:
    """Words of block 1 of the ESP32-S3 and ESP32-C3, whose minor revision lies in two of them."""
    major, minor = revision
    return {
        3: bit_fields((minor & 7, 18), (block_minor, 24)),
        5: bit_fields((minor >> 3, 23), (major, 24)),
    }


def _esp32c6_efuses(mac: bytes, revision: Revision) -> dict[int, int]:
    major, minor = revision
    eui64_filler = 0xFFFE
    words = _mac_words(mac, eui64_filler) | {3: bit_fields((minor, 18), (major, 22))}
    return words_at(0x600B0844, words)


def _modern_spi(base: int) -> SpiLayout:
    return SpiLayout(
        base,
        usr=0x18,
        usr1=0x1C,
        usr2=0x20,
        mosi_dlen=0x24,
        miso_dlen=0x28,
        w0=0x58,
        address_left_aligned=False,
    )


_MODELS = (
    ChipModel(
        name="esp32",
        image_chip_id=0,
        magic=0x00F01D83,
        common_revision=(3, 0),
        max_revision=(3, 3),
        has_security_info=False,
        uart_clock_divider=0x3FF40014,
        spi=SpiLayout(
            0x3FF42000,
            usr=0x1C,
            usr1=0x20,
            usr2=0x24,
            mosi_dlen=0x28,
            miso_dlen=0x2C,
            w0=0x80,
            address_left_aligned=True,
        ),
        efuses=_esp32_efuses,
        crypt_count=(0x3FF5A000, 20),
    ),
    ChipModel(
        name="esp32s3",
        image_chip_id=9,
        magic=0x00000009,
        common_revision=(0, 2),
        max_revision=(3, 15),
        has_security_info=True,
        uart_clock_divider=0x60000014,
        spi=_modern_spi(0x60002000),
        efuses=_esp32s3_efuses,
        crypt_count=(0x60007034, 18),
    ),
    ChipModel(
        name="esp32c3",
        image_chip_id=5,
        magic=0x1B31506F,
        common_revision=(0, 4),
        max_revision=(3, 15),
        has_security_info=True,
        uart_clock_divider=0x60000014,
        spi=_modern_spi(0x60002000),
        efuses=_esp32c3_efuses,
        crypt_count=(0x60008834, 18),
    ),
    ChipModel(
        name="esp32c6",
        image_chip_id=13,
        magic=0x2CE0806F,
        common_revision=(0, 1),
        max_revision=(3, 15),
        has_security_info=True,
        uart_clock_divider=0x60000014,
        spi=_modern_spi(0x60003000),
        efuses=_esp32c6_efuses,
        crypt_count=(0x600B0834, 18),
    ),
)

CHIPS: dict[str, ChipModel] = {model.name: model for model in _MODELS}
"""All chips there are, by esptool's name."""
