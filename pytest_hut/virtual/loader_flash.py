"""Writing to flash as the loaders do it: bounds, erase policy, block order, decompression."""

from __future__ import annotations

import zlib

from pytest_hut.virtual.flash import SECTOR_SIZE
from pytest_hut.virtual.loader_protocol import CommandFailed, Failure, Request
from pytest_hut.virtual.machine import Flash


class FlashAccess:
    """The flash as a loader can reach it: attached or not, up to the size it was told."""

    def __init__(self, flash: Flash, size: int, *, attached: bool) -> None:
        self._flash = flash
        self._attached = attached
        self.size = min(size, flash.size)
        """Bytes; everything above is refused."""

    def attach(self) -> None:
        """Connect the SPI pins; without it nothing can be read or written."""
        self._attached = True

    def set_size(self, size: int) -> None:
        """Believe the host about the size, in bytes, as far as the chip goes."""
        self.size = min(size, self._flash.size)

    def read(self, offset: int, length: int) -> bytes:
        """Raises CommandFailed (FLASH_READ) outside the chip."""
        self._check(offset, length, Failure.FLASH_READ)
        return self._flash.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Raises CommandFailed (FLASH_WRITE) outside the chip."""
        self._check(offset, len(data), Failure.FLASH_WRITE)
        self._flash.write(offset, data)

    def erase(self, offset: int, length: int) -> None:
        """Erase the sectors the range touches. Raises CommandFailed (FLASH_WRITE) outside the chip."""
        self._check(offset, length, Failure.FLASH_WRITE)
        self._flash.erase(offset, length)

    def _check(self, offset: int, length: int, failure: Failure) -> None:
        if length and (not self._attached or offset + length > self.size):
            raise CommandFailed(failure)


class BlockSequence:
    """Checks that the blocks of a download come one after the other, and no more than announced."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._next = 0

    def take(self, number: int) -> None:
        """Note that block `number` came; raises CommandFailed when another one is due."""
        if number != self._next or number >= self._blocks:
            raise CommandFailed(Failure.OUT_OF_SEQUENCE)
        self._next += 1

    @property
    def complete(self) -> bool:
        """All announced blocks came."""
        return self._next == self._blocks


class FlashDownload:
    """One `FLASH_BEGIN ... FLASH_DATA` or `FLASH_DEFL_BEGIN ... FLASH_DEFL_DATA` sequence."""

    def __init__(self, flash: FlashAccess, begin: Request, *, compressed: bool, erase_first: bool) -> None:
        """Raises CommandFailed for parameters that cannot work.

        `erase_first` is the ROM's way: the whole region at once. Otherwise sectors are erased when data reaches them.
        """
        size, blocks, block_size, offset = begin.words("<4I")
        encrypted = begin.words("<16xI")[0] if len(begin.data) > 16 else 0
        if encrypted or (blocks and not block_size):
            # An encrypted write needs a key in the eFuses, and none is burnt.
            raise CommandFailed(Failure.BAD_PARAMETER)
        self._flash = flash
        self._sequence = BlockSequence(blocks)
        self._offset = offset
        self._inflater = zlib.decompressobj() if compressed else None
        # The ROM counts blocks: the padding of the last one is written too, and changes nothing.
        self._remaining: int = size if compressed or not erase_first else blocks * block_size
        self._erased_to = offset - offset % SECTOR_SIZE
        self._erases = not erase_first
        if erase_first:
            flash.erase(offset, size)

    def take(self, number: int) -> None:
        """Accept block `number`; raises CommandFailed when another one is due."""
        self._sequence.take(number)

    def program(self, payload: bytes) -> None:
        """Write the payload of the block just taken. Raises CommandFailed."""
        data = payload[: self._remaining] if self._inflater is None else self._inflate(self._inflater, payload)
        end = self._offset + len(data)
        if self._erases and end > self._erased_to:
            aligned_end = end + -end % SECTOR_SIZE
            self._flash.erase(self._erased_to, aligned_end - self._erased_to)
            self._erased_to = aligned_end
        self._flash.write(self._offset, data)
        self._offset = end
        self._remaining -= len(data)

    def finish(self) -> None:
        """Raises CommandFailed when announced data is missing."""
        if self._remaining:
            raise CommandFailed(Failure.NOT_ENOUGH_DATA)

    def _inflate(self, inflater: zlib._Decompress, payload: bytes) -> bytes:
        if inflater.eof:
            raise CommandFailed(Failure.TOO_MUCH_DATA)
        try:
            # The limit keeps a small hostile block from becoming gigabytes.
            data = inflater.decompress(payload, self._remaining + 1)
        except zlib.error:
            raise CommandFailed(Failure.INFLATE) from None
        if len(data) > self._remaining:
            raise CommandFailed(Failure.TOO_MUCH_DATA)
        return data
