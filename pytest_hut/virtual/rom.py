"""The boot ROM: its banner, and how it loads the second-stage bootloader.

Wording: the ESP32's from recorded boot logs, the newer chips' from Espressif's documents ("Boot Mode Selection" of
esptool, ESP-IDF's reset reason tests and getting-started logs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.firmware.chips import CHIPS, ChipLayout
from pytest_hut.firmware.descriptors import BootloaderDescription
from pytest_hut.firmware.image import (
    CHECKSUM_SEED,
    HEADER_SIZE,
    IMAGE_MAGIC,
    MAX_SEGMENTS,
    SEGMENT_HEADER_SIZE,
    SHA256_SIZE,
    SPI_MODES,
    ImageHeader,
    checksum_position,
    unpack_segment_header,
    xor_checksum,
)
from pytest_hut.virtual.chips import CHIPS as CHIP_MODELS
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.output import Output

BAUD = 115200
"""What ROM and bootloader print at."""

_START_S = 0.03
_RETRY_S = 0.08
_HEADER_TRIES = 8
_WATCHDOG_S = 0.3
_LOAD_S_PER_BYTE = 2e-6
_CLOCK_DIVIDERS = {0xF: 1, 0x0: 2, 0x1: 3, 0x2: 4}

_ESP32_RESETS = {
    ResetCause.POWER_ON: (0x1, "POWERON_RESET"),
    ResetCause.SOFTWARE: (0x3, "SW_RESET"),
    ResetCause.DEEP_SLEEP: (0x5, "DEEPSLEEP_RESET"),
    ResetCause.TASK_WATCHDOG: (0x7, "TG0WDT_SYS_RESET"),
    ResetCause.INTERRUPT_WATCHDOG: (0x8, "TG1WDT_SYS_RESET"),
    ResetCause.SOFTWARE_CPU: (0xC, "SW_CPU_RESET"),
    ResetCause.BROWN_OUT: (0xF, "RTCWDT_BROWN_OUT_RESET"),
    ResetCause.RTC_WATCHDOG: (0x10, "RTCWDT_RTC_RESET"),
}
_C3_RESETS = {
    ResetCause.POWER_ON: (0x1, "POWERON"),
    ResetCause.SOFTWARE: (0x3, "RTC_SW_SYS_RST"),
    ResetCause.DEEP_SLEEP: (0x5, "DSLEEP"),
    ResetCause.TASK_WATCHDOG: (0x7, "TG0WDT_SYS_RST"),
    ResetCause.INTERRUPT_WATCHDOG: (0x8, "TG1WDT_SYS_RST"),
    ResetCause.SOFTWARE_CPU: (0xC, "RTC_SW_CPU_RST"),
    ResetCause.BROWN_OUT: (0xF, "BROWNOUT_RST"),
    ResetCause.RTC_WATCHDOG: (0x10, "RTCWDT_RTC_RST"),
}
_S3_RESETS = _C3_RESETS | {ResetCause.BROWN_OUT: (0xF, "BROWN_OUT_RST")}
_C6_RESETS = {
    ResetCause.POWER_ON: (0x1, "POWERON"),
    ResetCause.SOFTWARE: (0x3, "LP_SW_HPSYS"),
    ResetCause.DEEP_SLEEP: (0x5, "DSLEEP"),
    ResetCause.TASK_WATCHDOG: (0x7, "TG0_WDT_HPSYS"),
    ResetCause.INTERRUPT_WATCHDOG: (0x8, "TG1_WDT_HPSYS"),
    ResetCause.SOFTWARE_CPU: (0xC, "SW_CPU"),
    ResetCause.BROWN_OUT: (0xF, "LP_BOD_SYS"),
    ResetCause.RTC_WATCHDOG: (0x10, "LP_WDT_SYS"),
}


@dataclass(frozen=True)
class RomFacts:
    """What one chip's ROM prints and does. Strapping values are what it prints as `boot:0x..`."""

    banner: tuple[str, ...]
    resets: Mapping[ResetCause, tuple[int, str]]
    flash_strapping: int
    boot_pin: int
    """Bit of the pin that selects flash boot when high."""
    second_pin: int
    """Bit of the pin that must be `second_level` for the download mode when the boot pin is low."""
    second_level: bool
    download_text: str
    other_text: str
    """The mode when the second pin has the wrong level."""
    boot_watchdog: ResetCause
    """What ends a boot that hangs in the ROM."""
    saved_pc: int | None = None
    """Address printed as `Saved PC` after a reset that was no power-on; None where the ROM does not print it."""


ROMS: dict[str, RomFacts] = {
    "esp32": RomFacts(
        banner=("ets Jul 29 2019 12:21:46", ""),
        resets=_ESP32_RESETS,
        flash_strapping=0x13,
        boot_pin=0x10,
        second_pin=0x08,
        second_level=False,
        download_text="DOWNLOAD_BOOT(UART0/UART1/SDIO_REI_REO_V2)",
        other_text="UART_BOOT(UART0)",
        boot_watchdog=ResetCause.RTC_WATCHDOG,
    ),
    "esp32s3": RomFacts(
        banner=("ESP-ROM:esp32s3-20210327", "Build:Mar 27 2021"),
        resets=_S3_RESETS,
        flash_strapping=0x8,
        boot_pin=0x08,
        second_pin=0x04,
        second_level=False,
        download_text="DOWNLOAD(USB/UART0)",
        other_text="SPI_DOWNLOAD_BOOT",
        boot_watchdog=ResetCause.TASK_WATCHDOG,
        saved_pc=0x40048836,
    ),
    "esp32c3": RomFacts(
        banner=("ESP-ROM:esp32c3-api1-20210207", "Build:Feb  7 2021"),
        resets=_C3_RESETS,
        flash_strapping=0xC,
        boot_pin=0x08,
        second_pin=0x04,
        second_level=True,
        download_text="DOWNLOAD(USB/UART0/1)",
        other_text="SPI_DOWNLOAD_BOOT",
        boot_watchdog=ResetCause.TASK_WATCHDOG,
        saved_pc=0x40048B82,
    ),
    "esp32c6": RomFacts(
        banner=("ESP-ROM:esp32c6-20220919", "Build:Sep 19 2022"),
        resets=_C6_RESETS,
        flash_strapping=0xC,
        boot_pin=0x08,
        second_pin=0x04,
        second_level=True,
        download_text="DOWNLOAD(USB/UART0/SDIO_FEI_FEO)",
        other_text="SPI_DOWNLOAD_BOOT",
        boot_watchdog=ResetCause.TASK_WATCHDOG,
        saved_pc=0x4001974A,
    ),
}


@dataclass(frozen=True)
class LoadedBootloader:
    """The second-stage bootloader that the ROM started."""

    header: ImageHeader
    description: BootloaderDescription | None


def chip_revision(spec: VirtualBoardSpec) -> tuple[int, int]:
    """Return (major, minor): the board's, or a common one of its chip."""
    return spec.chip_revision or CHIP_MODELS[spec.chip].common_revision


def print_banner(out: Output) -> None:
    """Print date, reset reason and boot mode; in download mode also that the ROM waits."""
    machine = out.machine
    machine.uart.baud = BAUD
    out.sleep(_START_S)
    rom = ROMS[machine.spec.chip]
    mode, waits = _boot_mode(machine, rom)
    for text in rom.banner:
        out.line(text)
    code, reason = rom.resets[machine.reset_cause]
    out.line(f"rst:{code:#x} ({reason}),boot:{mode}")
    if rom.saved_pc is not None and machine.reset_cause not in (ResetCause.POWER_ON, ResetCause.BROWN_OUT):
        out.line(f"Saved PC:{rom.saved_pc:#010x}")
    if waits:
        out.line("waiting for download")


def load_bootloader(out: Output) -> LoadedBootloader | ResetCause:
    """Load the bootloader from flash as the ROM does, or return the reset that a bad one ends in."""
    machine = out.machine
    layout = CHIPS[machine.spec.chip]
    raw = machine.flash.read(layout.bootloader_offset, HEADER_SIZE)
    header = ImageHeader.unpack(raw)
    if header.magic != IMAGE_MAGIC:
        for _ in range(_HEADER_TRIES):
            out.line(f"invalid header: 0x{int.from_bytes(raw[:4], 'little'):08x}")
            out.sleep(_RETRY_S)
        return _wait_for_watchdog(out)
    classic = layout.name == "esp32"
    if not classic and header.chip_id != layout.image_id:
        out.line(f"Invalid chip id. Expected {layout.image_id} read {header.chip_id}. Bootloader for wrong chip?")
        return _wait_for_watchdog(out)
    _print_spi_settings(out, header, classic=classic)
    return _load_segments(out, header, raw, layout)


def _boot_mode(machine: Machine, rom: RomFacts) -> tuple[str, bool]:
    """Return the `0x.. (..)` of the boot mode and whether the ROM announces that it waits for a download."""
    strapping = rom.flash_strapping if machine.spec.strapping is None else machine.spec.strapping
    if not machine.download:
        return f"{strapping | rom.boot_pin:#x} (SPI_FAST_FLASH_BOOT)", False
    strapping &= ~rom.boot_pin
    if bool(strapping & rom.second_pin) != rom.second_level:
        return f"{strapping:#x} ({rom.other_text})", False
    return f"{strapping:#x} ({rom.download_text})", True


def _print_spi_settings(out: Output, header: ImageHeader, *, classic: bool) -> None:
    mode = SPI_MODES[header.spi_mode].upper() if header.spi_mode < len(SPI_MODES) else "DIO"
    if classic:
        clk_q, d_cs, hd_wp = header.spi_drive
        out.line(f"configsip: 0, SPIWP:{header.wp_pin:#04x}")
        out.line(
            f"clk_drv:{clk_q & 0xF:#04x},q_drv:{clk_q >> 4:#04x},d_drv:{d_cs & 0xF:#04x},"
            f"cs0_drv:{d_cs >> 4:#04x},hd_drv:{hd_wp & 0xF:#04x},wp_drv:{hd_wp >> 4:#04x}"
        )
    else:
        out.line(f"SPIWP:{header.wp_pin:#04x}")
    out.line(f"mode:{mode}, clock div:{_CLOCK_DIVIDERS.get(header.spi_freq, 2)}")


def _load_segments(
    out: Output, header: ImageHeader, raw_header: bytes, layout: ChipLayout
) -> LoadedBootloader | ResetCause:
    flash = out.machine.flash
    classic = layout.name == "esp32"
    checksum = CHECKSUM_SEED
    content = bytearray(raw_header)
    first_data = b""
    for index in range(min(header.segment_count, MAX_SEGMENTS)):
        position = layout.bootloader_offset + len(content)
        if position + SEGMENT_HEADER_SIZE > flash.size:
            return _wait_for_watchdog(out)
        segment_header = flash.read(position, SEGMENT_HEADER_SIZE)
        address, size = unpack_segment_header(segment_header)
        signed = size - (1 << 32) if size >> 31 else size
        out.line(f"load:{address:#010x},len:{signed}" if classic else f"load:{address:#010x},len:{size:#x}")
        if position + SEGMENT_HEADER_SIZE + size > flash.size:
            return _wait_for_watchdog(out)
        data = flash.read(position + SEGMENT_HEADER_SIZE, size)
        out.sleep(size * _LOAD_S_PER_BYTE)
        checksum = xor_checksum(data, checksum)
        content += segment_header + data
        first_data = first_data if index else data
    at = checksum_position(len(content))
    tail = flash.read(layout.bootloader_offset + len(content), at + 1 - len(content))
    content += tail
    if tail[-1] != checksum:
        out.line(f"csum err:{checksum:#04x}!={tail[-1]:#04x}")
        if classic:
            out.line("Falling back to built-in command interpreter.")
            out.line("OK")
            out.write(b">")
        return _wait_for_watchdog(out)
    if header.hash_appended and not classic:
        _compare_hash(out, bytes(content), flash.read(layout.bootloader_offset + len(content), SHA256_SIZE))
    out.line(f"entry {header.entry:#010x}")
    return LoadedBootloader(header, BootloaderDescription.find(first_data, bytes(content)))


def _compare_hash(out: Output, content: bytes, expected: bytes) -> None:
    """The newer ROMs only tell; they refuse to go on with secure boot alone."""
    calculated = hashlib.sha256(content).digest()
    if calculated != expected:
        out.line("SHA-256 comparison failed:")
        out.line(f"Calculated: {calculated.hex()}")
        out.line(f"Expected: {expected.hex()}")
        out.line("Attempting to boot anyway...")


def _wait_for_watchdog(out: Output) -> ResetCause:
    out.sleep(_WATCHDOG_S)
    return ROMS[out.machine.spec.chip].boot_watchdog
