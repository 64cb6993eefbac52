"""The commands that the ROM loader and the RAM stub have in common."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import ClassVar

from pytest_hut.virtual.chips import ChipModel
from pytest_hut.virtual.loader_flash import BlockSequence, FlashAccess, FlashDownload
from pytest_hut.virtual.loader_protocol import CommandFailed, Failure, Op, PacketLink, Reply, Request
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.registers import Registers

SYNC_REPLIES = 8
_SYNC_DATA = b"\x07\x07\x12\x20" + 32 * b"\x55"
_MAX_BAUD = 5_000_000

Command = Callable[[Request], Reply]


class Loader:
    """State and commands of a loader; subclasses say how requests come in and what else they know."""

    erase_first: ClassVar[bool]
    """Flash is erased by the `..._BEGIN` command already."""

    def __init__(
        self, machine: Machine, link: PacketLink, model: ChipModel, registers: Registers, flash: FlashAccess
    ) -> None:
        self.machine = machine
        self.link = link
        self.model = model
        self.registers = registers
        self.flash = flash
        self.download: FlashDownload | None = None
        self._ram_blocks: BlockSequence | None = None
        self.commands: dict[int, Command] = {
            Op.SYNC: self.sync,
            Op.READ_REG: self.read_register,
            Op.WRITE_REG: self.write_register,
            Op.MEM_BEGIN: self.begin_ram,
            Op.MEM_DATA: self.write_ram,
            Op.MEM_END: self.end_ram,
            Op.SPI_ATTACH: self.attach_flash,
            Op.SPI_SET_PARAMS: self.set_flash_parameters,
            Op.CHANGE_BAUDRATE: self.change_baud,
            Op.FLASH_BEGIN: self.begin_flash,
            Op.FLASH_DATA: self.write_flash,
            Op.FLASH_END: self.end_flash,
            Op.FLASH_DEFL_BEGIN: self.begin_compressed_flash,
            Op.FLASH_DEFL_DATA: self.write_flash,
            Op.FLASH_DEFL_END: self.end_flash,
            Op.SPI_FLASH_MD5: self.flash_md5,
        }
        if model.has_security_info:
            self.commands[Op.GET_SECURITY_INFO] = self.security_info

    def serve(self) -> ResetCause:
        """Answer the host until the chip resets. Raises ChipStopped."""
        while True:
            cause = self.handle(self.link.receive())
            if cause is not None:
                return cause

    def handle(self, packet: bytes) -> ResetCause | None:
        """Answer one packet; return why the chip resets now, if it does."""
        raise NotImplementedError

    def start_ram_code(self) -> ResetCause | None:
        """Run what was loaded into RAM."""
        raise NotImplementedError

    def program(self, download: FlashDownload, payload: bytes) -> Reply:
        """Write an accepted block, now or after the reply."""
        raise NotImplementedError

    def end_flash(self, request: Request) -> Reply:
        """FLASH_END, FLASH_DEFL_END."""
        raise NotImplementedError

    def md5_data(self, digest: bytes) -> bytes:
        """Return a digest the way this loader sends it."""
        raise NotImplementedError

    def sync(self, request: Request) -> Reply:
        """SYNC: eight replies, and the baud rate is settled."""
        if request.data != _SYNC_DATA:
            raise CommandFailed(Failure.BAD_FORMAT)
        if not self.link.baud_found:
            self.link.baud_found = True
            self.note_baud()
        return Reply(copies=SYNC_REPLIES)

    def note_baud(self) -> None:
        """Keep the clock divider register true: hosts tell the crystal frequency from it."""
        self.registers.write(self.model.uart_clock_divider, self.model.crystal_hz // self.machine.uart.baud)

    def read_register(self, request: Request) -> Reply:
        """READ_REG."""
        (address,) = request.words("<I")
        return Reply(value=self.registers.read(address))

    def write_register(self, request: Request) -> Reply:
        """WRITE_REG: one or more writes under a mask, each after its delay."""
        if not request.data or len(request.data) % 16:
            raise CommandFailed(Failure.BAD_FORMAT)
        for address, value, mask, delay_us in struct.iter_unpack("<4I", request.data):
            if delay_us:
                self.machine.sleep(delay_us / 1e6)
            self.registers.write(address, value, mask)
        return Reply()

    def begin_ram(self, request: Request) -> Reply:
        """MEM_BEGIN."""
        _size, blocks, _block_size, _address = request.words("<4I")
        self._ram_blocks = BlockSequence(blocks)
        return Reply()

    def write_ram(self, request: Request) -> Reply:
        """MEM_DATA: checked and dropped, for nothing here runs machine code."""
        number, _payload = request.block()
        if self._ram_blocks is None:
            raise CommandFailed(Failure.NOT_STARTED)
        self._ram_blocks.take(number)
        return Reply()

    def end_ram(self, request: Request) -> Reply:
        """MEM_END: any code started counts as the flasher stub."""
        stay, _entry = request.words("<II")
        if self._ram_blocks is None:
            raise CommandFailed(Failure.NOT_STARTED)
        if not self._ram_blocks.complete:
            raise CommandFailed(Failure.NOT_ENOUGH_DATA)
        self._ram_blocks = None
        return Reply(then=None if stay else self.start_ram_code)

    def attach_flash(self, request: Request) -> Reply:
        """SPI_ATTACH: whatever the pins, there is one flash chip."""
        request.words("<I")
        self.flash.attach()
        return Reply()

    def set_flash_parameters(self, request: Request) -> Reply:
        """SPI_SET_PARAMS."""
        _id, size, _block, _sector, _page, _status_mask = request.words("<6I")
        if not size:
            raise CommandFailed(Failure.BAD_PARAMETER)
        self.flash.set_size(size)
        return Reply()

    def change_baud(self, request: Request) -> Reply:
        """CHANGE_BAUDRATE: the reply still goes out at the old rate."""
        baud, _current = request.words("<II")
        if not 0 < baud <= _MAX_BAUD:
            raise CommandFailed(Failure.BAD_PARAMETER)

        def switch() -> None:
            self.link.change_baud(baud)
            self.note_baud()

        return Reply(then=switch)

    def begin_flash(self, request: Request) -> Reply:
        """FLASH_BEGIN."""
        self.download = FlashDownload(self.flash, request, compressed=False, erase_first=self.erase_first)
        return Reply()

    def begin_compressed_flash(self, request: Request) -> Reply:
        """FLASH_DEFL_BEGIN."""
        self.download = FlashDownload(self.flash, request, compressed=True, erase_first=self.erase_first)
        return Reply()

    def write_flash(self, request: Request) -> Reply:
        """FLASH_DATA, FLASH_DEFL_DATA."""
        number, payload = request.block()
        if self.download is None:
            raise CommandFailed(Failure.NOT_STARTED)
        self.download.take(number)
        return self.program(self.download, payload)

    def flash_md5(self, request: Request) -> Reply:
        """SPI_FLASH_MD5."""
        offset, length = request.words("<II")
        digest = hashlib.md5(self.flash.read(offset, length), usedforsecurity=False).digest()
        if self.machine.take_fault("md5_wrong_once"):
            digest = bytes(byte ^ 0xFF for byte in digest)
        return Reply(data=self.md5_data(digest))

    def security_info(self, request: Request) -> Reply:
        """GET_SECURITY_INFO."""
        if request.data:
            raise CommandFailed(Failure.BAD_FORMAT)
        spec = self.machine.spec
        info = self.model.security_info(flash_encryption=spec.flash_encryption, secure_download=spec.secure_download)
        return Reply(data=info)
