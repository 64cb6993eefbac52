"""Espressif's flasher stub: what esptool loads into RAM to flash faster than the ROM can."""

from __future__ import annotations

import hashlib
import struct

from pytest_hut.virtual.chips import ChipModel
from pytest_hut.virtual.flash import SECTOR_SIZE
from pytest_hut.virtual.loader_commands import Loader
from pytest_hut.virtual.loader_flash import FlashAccess, FlashDownload
from pytest_hut.virtual.loader_protocol import (
    STUB_SUCCESS,
    CommandFailed,
    Failure,
    Op,
    PacketLink,
    Reply,
    Request,
    parse_request,
    response,
)
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.registers import Registers

_GREETING = b"OHAI"
_MAX_READ_PACKET = 4096


class StubLoader(Loader):
    """The stub: two status bytes, erases as it writes, and acknowledges a block before writing it."""

    erase_first = False

    def __init__(self, machine: Machine, link: PacketLink, model: ChipModel, registers: Registers) -> None:
        """Greet the host."""
        super().__init__(machine, link, model, registers, FlashAccess(machine.flash, machine.flash.size, attached=True))
        self._late_failure: Failure | None = None
        self.commands |= {
            Op.ERASE_FLASH: self.erase_flash,
            Op.ERASE_REGION: self.erase_region,
            Op.READ_FLASH: self.read_flash,
        }
        link.send(_GREETING)

    def handle(self, packet: bytes) -> ResetCause | None:
        """Answer one packet; a failure after the last reply is the answer to this command."""
        op = packet[1] if len(packet) > 1 else 0
        try:
            request = parse_request(packet)
            if self._late_failure is not None:
                late, self._late_failure = self._late_failure, None
                raise CommandFailed(late)
            if request.op == Op.RUN_USER_CODE:
                # The only command without an answer.
                return self._run_user_code()
            command = self.commands.get(request.op)
            if command is None:
                raise CommandFailed(Failure.UNKNOWN_COMMAND)
            reply = command(request)
        except CommandFailed as failed:
            self.link.send(response(op, 0, failed.failure.stub_status))
            return None
        self.link.send(response(op, reply.value, reply.data + STUB_SUCCESS), reply.copies)
        if reply.then is None:
            return None
        try:
            return reply.then()
        except CommandFailed as failed:
            self._late_failure = failed.failure
            return None

    def start_ram_code(self) -> None:
        """Another stub took over: it greets, and knows nothing of a download."""
        self.download = None
        self.link.send(_GREETING)

    def program(self, download: FlashDownload, payload: bytes) -> Reply:
        """Write after the reply, while the host sends the next block."""
        return Reply(then=lambda: download.program(payload))

    def end_flash(self, request: Request) -> Reply:
        """FLASH_END, FLASH_DEFL_END: 0 resets the chip, 1 stays."""
        (stay,) = request.words("<I")
        if self.download is None:
            raise CommandFailed(Failure.NOT_STARTED)
        self.download.finish()
        self.download = None
        return Reply(then=None if stay else lambda: ResetCause.SOFTWARE_CPU)

    def md5_data(self, digest: bytes) -> bytes:
        """16 raw bytes."""
        return digest

    def erase_flash(self, _request: Request) -> Reply:
        """ERASE_FLASH: the whole chip."""
        self.flash.erase(0, self.flash.size)
        return Reply()

    def erase_region(self, request: Request) -> Reply:
        """ERASE_REGION: whole sectors only."""
        offset, length = request.words("<II")
        if offset % SECTOR_SIZE or length % SECTOR_SIZE:
            raise CommandFailed(Failure.BAD_FORMAT)
        self.flash.erase(offset, length)
        return Reply()

    def read_flash(self, request: Request) -> Reply:
        """READ_FLASH: the data follows the reply, packet by packet."""
        offset, length, packet_size, _max_in_flight = request.words("<4I")
        if not 0 < packet_size <= _MAX_READ_PACKET:
            raise CommandFailed(Failure.BAD_FORMAT)
        data = self.flash.read(offset, length)
        return Reply(then=lambda: self._send_flash(data, packet_size))

    def _send_flash(self, data: bytes, packet_size: int) -> None:
        """Send `data` and its MD5; a host that speaks of something else instead of acknowledging ends it.

        The host may offer to take many packets unacknowledged. Espressif's stub waits for each one all the same.
        """
        for start in range(0, len(data), packet_size):
            self.link.send(data[start : start + packet_size])
            acknowledged = 0
            while acknowledged < min(start + packet_size, len(data)):
                packet = self.link.receive()
                if len(packet) != 4:
                    self.link.put_back(packet)
                    return
                (acknowledged,) = struct.unpack("<I", packet)
        self.link.send(hashlib.md5(data, usedforsecurity=False).digest())

    def _run_user_code(self) -> ResetCause:
        self.machine.download = False
        return ResetCause.SOFTWARE_CPU
