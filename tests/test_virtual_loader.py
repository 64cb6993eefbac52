"""The loader of the virtual chips, asked by the real esptool over a pty."""

from __future__ import annotations

import contextlib
import os
import random
import select
import termios
import threading
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from esptool import cmds
from esptool.loader import ESPLoader
from esptool.targets import CHIP_DEFS
from esptool.util import FatalError
from virtual_chip_rig import EVERY_CHIP, MAC, MIB, machine_with

from pytest_hut.virtual.chips import CHIPS, register_map
from pytest_hut.virtual.flash import FileFlash
from pytest_hut.virtual.loader import run_loader
from pytest_hut.virtual.machine import ChipStopped, Machine, ResetCause

BAUD_OF_SPEED = {
    termios.B115200: 115200,
    termios.B460800: 460800,
    termios.B921600: 921600,
    termios.B2000000: 2000000,
}


class PtyUart:
    """The chip's end of a pty. Where the two ends disagree about the baud rate, every byte is noise."""

    def __init__(self) -> None:
        self.baud = 74880
        self._chip, self._host = os.openpty()
        tty.setraw(self._host)
        self.path = os.ttyname(self._host)
        self._wake_read, self._wake_write = os.pipe()

    def host_baud(self) -> int:
        return BAUD_OF_SPEED.get(termios.tcgetattr(self._host)[5], 0)

    def read(self, timeout: float | None) -> bytes:
        ready, _, _ = select.select([self._chip, self._wake_read], [], [], timeout)
        if self._wake_read in ready:
            raise ChipStopped
        return self._garble(os.read(self._chip, 1 << 16)) if ready else b""

    def write(self, data: bytes) -> None:
        data = self._garble(data)
        while data:
            ready, _, _ = select.select([self._wake_read], [self._chip], [])
            if ready:
                raise ChipStopped
            data = data[os.write(self._chip, data) :]

    def adopt_host_baud(self) -> None:
        self.baud = self.host_baud()

    def stop(self) -> None:
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        for descriptor in (self._chip, self._host, self._wake_read, self._wake_write):
            os.close(descriptor)

    def _garble(self, data: bytes) -> bytes:
        return data if self.baud == self.host_baud() else bytes(byte ^ 0x5A for byte in data)


@dataclass
class Chip:
    """A chip in download mode, its loader running in a thread."""

    uart: PtyUart
    machine: Machine
    faults: set[str]
    flash: FileFlash
    left: list[ResetCause] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        try:
            self.left.append(run_loader(self.machine))
        except ChipStopped:
            pass
        except BaseException as error:
            self.broken.append(error)
            raise


@contextlib.contextmanager
def download_mode(tmp_path: Path, chip: str, flash_size: int = 4 * MIB) -> Iterator[tuple[Chip, threading.Thread]]:
    uart = PtyUart()
    flash = FileFlash(tmp_path / f"{chip}.flash", flash_size)
    faults: set[str] = set()
    board = Chip(uart, machine_with(uart, flash, chip, faults), faults, flash)
    thread = threading.Thread(target=board.run, name=f"loader of {chip}")
    thread.start()
    try:
        yield board, thread
    finally:
        uart.stop()
        thread.join(10)
        assert not thread.is_alive()
        uart.close()
        flash.close()
    assert not board.broken


def connect(board: Chip, *, stub: bool, baud: int = 115200) -> ESPLoader:
    esp = cmds.detect_chip(board.uart.path, connect_mode="no-reset")
    if stub:
        esp = cmds.run_stub(esp)
        assert esp.IS_STUB
    if baud != 115200:
        esp.change_baud(baud)
    cmds.attach_flash(esp)
    return esp


def firmware_like(size: int, seed: int = 1) -> bytes:
    """Bytes that compress about as well as firmware does."""
    source = random.Random(seed)
    return b"".join(source.randbytes(40) + bytes(24) for _ in range(size // 64 + 1))[:size]


def test_sync_frame_at_another_baud_rate_is_found(tmp_path: Path) -> None:
    with download_mode(tmp_path, "esp32") as (board, _):
        assert board.uart.baud != 115200
        esp = cmds.detect_chip(board.uart.path, connect_mode="no-reset")
        assert not esp.sync_stub_detected
        assert board.uart.baud == 115200
        esp._port.close()


@pytest.mark.parametrize(
    ("chip", "description", "features"),
    [
        ("esp32", "ESP32-D0WD-V3 (revision v3.0)", {"Dual Core + LP Core", "240MHz", "Coding Scheme None"}),
        ("esp32s3", "ESP32-S3 (QFN56) (revision v0.2)", {"Wi-Fi", "BT 5 (LE)"}),
        ("esp32c3", "ESP32-C3 (QFN32) (revision v0.4)", {"Single Core"}),
        ("esp32c6", "ESP32-C6 (QFN40) (revision v0.1)", {"IEEE802.15.4"}),
    ],
)
@pytest.mark.parametrize("stub", [True, False], ids=["stub", "rom"])
def test_identity(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chip: str,
    description: str,
    features: set[str],
    stub: bool,
) -> None:
    with download_mode(tmp_path, chip, 8 * MIB) as (board, _):
        esp = connect(board, stub=stub)
        assert esp.get_chip_description() == description
        assert features <= set(esp.get_chip_features())
        assert esp.get_crystal_freq() == 40
        assert bytes(esp.read_mac("BASE_MAC")) == MAC
        capsys.readouterr()
        cmds.read_mac(esp)
        assert "24:6f:28:a1:b2:c3" in capsys.readouterr().out
        cmds.flash_id(esp)
        printed = capsys.readouterr().out
        assert "Manufacturer: ef" in printed
        assert "Device: 4017" in printed
        assert "Detected flash size: 8MB" in printed
        assert esp.read_spiflash_sfdp(0, 32) == int.from_bytes(b"SFDP", "little")
        esp._port.close()


@pytest.mark.parametrize("chip", EVERY_CHIP)
def test_write_verify_read_and_erase_with_the_stub(tmp_path: Path, chip: str) -> None:
    image = firmware_like(150_001)
    with download_mode(tmp_path, chip) as (board, _):
        board.flash.write(0x3000, b"\0" * 0x40000)
        esp = connect(board, stub=True, baud=921600)
        assert board.uart.baud == board.uart.host_baud() == 921600
        cmds.write_flash(esp, [(0x10000, image), (0x8010, b"short")])
        cmds.write_flash(esp, [(0x38000, image[:20_000])], no_compress=True)
        cmds.verify_flash(esp, [(0x10000, image), (0x8010, b"short"), (0x38000, image[:20_000])])
        assert cmds.read_flash(esp, 0x10000, len(image)) == image
        assert cmds.read_flash(esp, 0x10001, 7) == image[1:8]
        # Only touched sectors are erased: what lies around the images is as it was.
        assert board.flash.read(0x7FFF, 1) == b"\0"
        assert board.flash.read(0x8000, 0x1000) == (b"\xff" * 16 + b"short\xff\xff\xff").ljust(0x1000, b"\xff")
        assert board.flash.read(0x9000, 1) == b"\0"
        cmds.erase_region(esp, 0x10000, 0x1000)
        assert board.flash.read(0x10000, 0x1001) == b"\xff" * 0x1000 + image[0x1000:0x1001]
        cmds.erase_flash(esp)
        assert board.flash.read(0, board.flash.size) == b"\xff" * board.flash.size
        esp._port.close()


@pytest.mark.parametrize("chip", EVERY_CHIP)
def test_write_verify_read_and_erase_without_the_stub(tmp_path: Path, chip: str) -> None:
    image = firmware_like(30_001)
    with download_mode(tmp_path, chip) as (board, _):
        board.flash.write(0x300000, b"\0" * 0x20000)
        esp = connect(board, stub=False, baud=460800)
        assert board.uart.baud == board.uart.host_baud() == 460800
        cmds.write_flash(esp, [(0x300000, image)])
        cmds.write_flash(esp, [(0x310000, image)], compress=True)
        cmds.verify_flash(esp, [(0x300000, image), (0x310000, image)])
        assert cmds.read_flash(esp, 0x300100, 1000) == image[0x100 : 0x100 + 1000]
        assert board.flash.read(0x308000, 1) == b"\0"
        cmds.erase_region(esp, 0x300000, 0x2000)
        assert board.flash.read(0x300000, 0x2001) == b"\xff" * 0x2000 + image[0x2000:0x2001]
        esp._port.close()


@pytest.mark.parametrize("chip", ["esp32", "esp32s3"])
def test_stub_left_running_is_recognised(tmp_path: Path, chip: str) -> None:
    with download_mode(tmp_path, chip) as (board, _):
        connect(board, stub=True)._port.close()
        esp = cmds.detect_chip(board.uart.path, connect_mode="no-reset")
        assert esp.IS_STUB
        assert esp.sync_stub_detected
        assert esp.get_crystal_freq() == 40
        esp._port.close()


def test_wrong_md5_once(tmp_path: Path) -> None:
    with download_mode(tmp_path, "esp32") as (board, _):
        esp = connect(board, stub=True)
        board.faults.add("md5_wrong_once")
        with pytest.raises(FatalError, match="MD5 of file does not match data in flash"):
            cmds.write_flash(esp, [(0x10000, b"content")])
        cmds.verify_flash(esp, [(0x10000, b"content")])
        esp._port.close()


def test_revision_and_flash_size_come_from_the_board() -> None:
    for name, model in CHIPS.items():
        registers = register_map(model, MAC, None, 16 * MIB)
        assert registers.flash_chip.command(0x9F, 0, b"") == b"\xef\x40\x18", name
        with pytest.raises(ValueError, match=f"{name} has no revision v9.0"):
            register_map(model, MAC, (9, 0), 4 * MIB)
        with pytest.raises(ValueError, match="must be a power of two"):
            register_map(model, MAC, None, 3 * MIB)
        with pytest.raises(ValueError, match="six bytes"):
            register_map(model, MAC[:5], None, 4 * MIB)


@pytest.mark.parametrize(
    ("chip", "revision"),
    [("esp32", (major, 1)) for major in range(4)] + [(chip, (1, 11)) for chip in EVERY_CHIP if chip != "esp32"],
)
def test_revision_and_mac_read_from_the_registers(chip: str, revision: tuple[int, int]) -> None:
    esp = object.__new__(CHIP_DEFS[chip])
    esp.read_reg = register_map(CHIPS[chip], MAC, revision, 4 * MIB).read
    assert esp.get_chip_description().endswith(f"(revision v{revision[0]}.{revision[1]})")
    assert bytes(esp.read_mac("BASE_MAC")) == MAC


def test_flash_status_register_is_written_under_write_enable(tmp_path: Path) -> None:
    with download_mode(tmp_path, "esp32s3") as (board, _):
        esp = connect(board, stub=True)
        assert esp.read_status(3) == 0
        esp.write_status(0x0200, 2)
        assert esp.read_status(2) == 0x0200
        esp.run_spiflash_command(0x31, b"\x00")
        assert esp.read_status(2) == 0x0200
        esp._port.close()


@pytest.mark.parametrize(("stub", "download"), [(True, True), (False, False)], ids=["stub", "rom"])
def test_soft_reset_ends_the_loader(tmp_path: Path, stub: bool, download: bool) -> None:
    with download_mode(tmp_path, "esp32c3") as (board, thread):
        esp = connect(board, stub=stub)
        esp.soft_reset(stay_in_bootloader=stub)
        thread.join(5)
        assert board.left == [ResetCause.SOFTWARE_CPU]
        # The stub was asked for the loader again, the ROM for the user's code.
        assert board.machine.download is download
        esp._port.close()
