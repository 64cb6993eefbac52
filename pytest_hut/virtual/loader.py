"""The serial loader in the ROM of an ESP32-family chip: what runs when IO0 was low at reset."""

from __future__ import annotations

from pytest_hut.virtual.chips import CHIPS, ChipModel, register_map
from pytest_hut.virtual.loader_commands import SYNC_REPLIES, Loader
from pytest_hut.virtual.loader_flash import FlashAccess, FlashDownload
from pytest_hut.virtual.loader_protocol import (
    ROM_SUCCESS,
    CommandFailed,
    Failure,
    Op,
    PacketLink,
    Reply,
    Request,
    parse_request,
    response,
)
from pytest_hut.virtual.loader_stub import StubLoader
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.registers import Registers

_SYNC_VALUE = 0x20120707
"""Not zero: that is how a host tells the ROM from the stub."""
_DEFAULT_FLASH_SIZE = 2 * 1024 * 1024
"""Bytes the ROM believes in until SPI_SET_PARAMS."""
_SLOW_READ_SIZE = 64

_SECURE_DOWNLOAD_COMMANDS = {
    *(Op.FLASH_BEGIN, Op.FLASH_DATA, Op.FLASH_END),
    *(Op.SYNC, Op.SPI_SET_PARAMS, Op.SPI_ATTACH, Op.CHANGE_BAUDRATE, Op.GET_SECURITY_INFO),
}
"""What secure download mode leaves of the loader (esptool's documentation, "Serial Protocol")."""


def run_loader(machine: Machine) -> ResetCause:
    """Serve the host until it resets the chip (`machine.Program`; the banner is out already).

    The cause is always SOFTWARE_CPU, after which the strapping pins are as they were latched: a chip that was in
    download mode comes back to it. Only where the host asked for the user's code, `machine.download` is False by then
    and the chip boots from flash. Raises ChipStopped, and ValueError for a spec no real chip can have.
    """
    spec = machine.spec
    model = CHIPS[spec.chip]
    if spec.secure_download and not model.has_security_info:
        raise ValueError(f"the {model.name} has no secure download mode")
    registers = register_map(
        model, machine.mac, spec.chip_revision, machine.flash.size, flash_encryption=spec.flash_encryption
    )
    return RomLoader(machine, PacketLink(machine.uart), model, registers).serve()


class RomLoader(Loader):
    """The ROM: four status bytes, erases first, ignores what it cannot parse."""

    erase_first = True

    def __init__(self, machine: Machine, link: PacketLink, model: ChipModel, registers: Registers) -> None:
        super().__init__(
            machine, link, model, registers, FlashAccess(machine.flash, _DEFAULT_FLASH_SIZE, attached=False)
        )
        self.commands[Op.READ_FLASH_SLOW] = self.read_flash
        if machine.spec.secure_download:
            self.commands = {op: command for op, command in self.commands.items() if op in _SECURE_DOWNLOAD_COMMANDS}

    def handle(self, packet: bytes) -> ResetCause | None:
        """Answer one packet."""
        try:
            request = parse_request(packet)
        except CommandFailed:
            return None
        if not self.link.baud_found and request.op != Op.SYNC:
            return None
        command = self.commands.get(request.op)
        if command is None:
            self._refuse()
            return None
        try:
            reply = command(request)
        except CommandFailed as failed:
            self.link.send(response(request.op, 0, failed.failure.rom_status))
            return None
        self.link.send(response(request.op, reply.value, reply.data + ROM_SUCCESS), reply.copies)
        return reply.then() if reply.then else None

    def sync(self, request: Request) -> Reply:
        """SYNC."""
        reply = super().sync(request)
        return Reply(value=_SYNC_VALUE, copies=reply.copies)

    def start_ram_code(self) -> ResetCause:
        """Hand over to the stub, for good."""
        return StubLoader(self.machine, self.link, self.model, self.registers).serve()

    def program(self, download: FlashDownload, payload: bytes) -> Reply:
        """Write before the reply."""
        download.program(payload)
        return Reply()

    def end_flash(self, request: Request) -> Reply:
        """FLASH_END, FLASH_DEFL_END: 0 resets the chip, 1 runs the user's code; the ROM never stays."""
        (run_user_code,) = request.words("<I")
        if self.download is None:
            raise CommandFailed(Failure.NOT_STARTED)

        def leave() -> ResetCause:
            if run_user_code:
                self.machine.download = False
            return ResetCause.SOFTWARE_CPU

        return Reply(then=leave)

    def md5_data(self, digest: bytes) -> bytes:
        """32 hexadecimal digits."""
        return digest.hex().encode("ascii")

    def read_flash(self, request: Request) -> Reply:
        """READ_FLASH_SLOW: always 64 bytes, of which the host asked for the first ones."""
        offset, length = request.words("<II")
        if length > _SLOW_READ_SIZE:
            raise CommandFailed(Failure.READ_LENGTH)
        return Reply(data=self.flash.read(offset, length).ljust(_SLOW_READ_SIZE, b"\0"))

    def _refuse(self) -> None:
        """Tell the host that this chip does not know the command: the ROM says so eight times, for no command."""
        self.link.send(response(0, 0, Failure.UNKNOWN_COMMAND.rom_status), copies=SYNC_REPLIES)
