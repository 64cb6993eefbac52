"""The memory-mapped registers a host reaches through the loader, and the SPI flash chip behind some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WORD = 0xFFFFFFFF

# Commands of a SPI NOR flash (any JEDEC flash data sheet).
_WRITE_ENABLE = 0x06
_WRITE_DISABLE = 0x04
_WRITE_ENABLE_VOLATILE = 0x50
_READ_ID = 0x9F
_READ_SFDP = 0x5A
_READ_STATUS = {0x05: 0, 0x35: 1, 0x15: 2}
_WRITE_STATUS = {0x01: 0, 0x31: 1, 0x11: 2}

_WINBOND_W25Q = (0xEF, 0x40)
_SFDP_HEADER = b"SFDP\x00\x01\x00\xff"
"""JESD216 signature and revision 1.0; the tables behind it read as erased."""

# Fields of the SPI peripheral (ESP32 technical reference manual, chapter SPI).
_CMD_USR = 1 << 18
_USR_ADDR = 1 << 30
_USR_MISO = 1 << 28
_USR_MOSI = 1 << 27
_USR1_ADDR_BITS_SHIFT = 26


class SpiFlashChip:
    """What the flash chip answers to single SPI commands; the content is reached by other ways."""

    def __init__(self, size: int) -> None:
        """Raises ValueError unless `size` (bytes) is a power of two, which its id can say."""
        if size <= 0 or size & (size - 1):
            raise ValueError(f"no flash chip has {size} bytes: it must be a power of two")
        self._id = bytes((*_WINBOND_W25Q, size.bit_length() - 1))
        self._status = bytearray(3)
        self._writable = False

    def command(self, opcode: int, address: int, sent: bytes) -> bytes:
        """Run one command and return what the chip puts on the wire, without trailing 0xff."""
        if opcode in (_WRITE_ENABLE, _WRITE_ENABLE_VOLATILE):
            self._writable = True
        elif opcode == _WRITE_DISABLE:
            self._writable = False
        elif opcode in _WRITE_STATUS and self._writable:
            first = _WRITE_STATUS[opcode]
            taken = sent[: len(self._status) - first]
            self._status[first : first + len(taken)] = taken
            self._writable = False
        elif opcode in _READ_STATUS:
            return bytes((self._status[_READ_STATUS[opcode]],))
        elif opcode == _READ_ID:
            return self._id
        elif opcode == _READ_SFDP:
            return _SFDP_HEADER[address:]
        return b""


@dataclass(frozen=True)
class SpiLayout:
    """Where a chip has the SPI controller its flash hangs on: absolute base, register offsets in bytes."""

    base: int
    usr: int
    usr1: int
    usr2: int
    mosi_dlen: int
    miso_dlen: int
    w0: int
    address_left_aligned: bool
    """A 24-bit address sits in the upper bits of its register."""


@dataclass
class Registers:
    """A sparse register file: what nobody wrote reads as zero."""

    values: dict[int, int]
    """Word address to 32-bit content."""
    spi: SpiLayout
    flash_chip: SpiFlashChip = field(repr=False)

    def read(self, address: int) -> int:
        """Return the 32-bit word at `address`."""
        return self.values.get(address, 0)

    def write(self, address: int, value: int, mask: int = WORD) -> None:
        """Replace the bits of `mask` by those of `value`; starting a SPI transaction runs it to its end."""
        self.values[address] = (self.read(address) & ~mask | value & mask) & WORD
        if address == self.spi.base and self.values[address] & _CMD_USR:
            self._transact()
            self.values[address] &= ~_CMD_USR

    def _transact(self) -> None:
        spi = self.spi
        usr = self.read(spi.base + spi.usr)
        address = 0
        if usr & _USR_ADDR:
            address = self.read(spi.base + 4)
            if spi.address_left_aligned:
                bits = (self.read(spi.base + spi.usr1) >> _USR1_ADDR_BITS_SHIFT) + 1
                address >>= max(0, 32 - bits)
        sent = b""
        if usr & _USR_MOSI:
            length = self._length(spi.mosi_dlen)
            words = [self.read(spi.base + spi.w0 + at) for at in range(0, length, 4)]
            sent = b"".join(word.to_bytes(4, "little") for word in words)[:length]
        answer = self.flash_chip.command(self.read(spi.base + spi.usr2) & 0xFF, address, sent)
        if usr & _USR_MISO:
            length = self._length(spi.miso_dlen)
            received = answer[:length].ljust(length, b"\xff")
            for at in range(0, length, 4):
                self.values[spi.base + spi.w0 + at] = int.from_bytes(received[at : at + 4], "little")

    def _length(self, register: int) -> int:
        """Return the bytes a data length register asks for; the data buffer has 64."""
        return min(64, (self.read(self.spi.base + register) >> 3) + 1)


def bit_fields(*fields: tuple[int, int]) -> int:
    """Return a word made of (value, shift) pairs."""
    return sum(value << shift for value, shift in fields)


def words_at(base: int, words: Mapping[int, int]) -> dict[int, int]:
    """Return register contents for word numbers counted from `base`."""
    return {base + 4 * number: value & WORD for number, value in words.items()}
