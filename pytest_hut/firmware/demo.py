"""The demo firmware: a bootable set of images for virtual boards, generated, in the product's layout.

Equal arguments give equal bytes. The applications hold no machine code, only filler that compresses about as well
as firmware with large assets does, and the console script that a virtual board plays (see `console_script`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import CHIPS
from pytest_hut.firmware.console_script import embed_script
from pytest_hut.firmware.descriptors import AppDescription, BootloaderDescription, bootloader_strings, idf_release
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.partitions import (
    TABLE_OFFSET,
    TYPE_APP,
    TYPE_DATA,
    Partition,
    build_otadata,
    build_partition_table,
)
from pytest_hut.firmware.writer import SpiSettings, write_image

DEMO_PROJECT = "pytest-hut-demo"
DEMO_VERSION = "demo-1.0"
READY_LINE = "esp_app_main: demo ready"
"""What the default script logs when the application is up."""

DEMO_PARTITIONS = (
    Partition("nvs", TYPE_DATA, 0x02, 0x9000, 0x4000),
    Partition("otadata", TYPE_DATA, 0x00, 0xD000, 0x2000),
    Partition("phy_init", TYPE_DATA, 0x01, 0xF000, 0x1000),
    Partition("recovery", TYPE_APP, 0x00, 0x10000, 0x140000),
    Partition("ota_0", TYPE_APP, 0x10, 0x150000, 0x2A0000),
    Partition("settings", TYPE_DATA, 0x02, 0x3F0000, 0x10000),
)

DEMO_SCRIPT: Mapping[str, Any] = {
    "psram": "optional",
    "boot": [
        {"log": "I esp_app_main: Reset reason is: {reset_reason}"},
        {"log": "I esp_app_main: Starting app_main from {partition}"},
        {"log": "I nvs_utilities: Initializing flash nvs"},
        {"delay": 0.05},
        {"log": "I esp_app_main: Setting up config subsystem."},
        {"log": "W services: no I2C configured"},
        {"log": "I esp_app_main: Configuring services"},
        {"delay": 0.02},
        {"log": f"I {READY_LINE}"},
    ],
    "commands": {
        "ping": ["pong"],
        "version": ["{project} {version} ELF {elf_sha256}"],
        "uptime": ["up {uptime_ms} ms"],
        "echo": ["{args}"],
        "panic": [{"panic": "abort"}],
        "panic assert": [{"panic": "assert"}],
        "panic guru": [{"panic": "StoreProhibited"}],
        "panic load": [{"panic": "LoadProhibited"}],
        "panic illegal": [{"panic": "IllegalInstruction"}],
        "panic stack": [{"panic": "stack_smash"}],
        "panic task_wdt": [{"panic": "task_wdt"}],
        "panic int_wdt": [{"panic": "int_wdt"}],
        "panic hw_wdt": [{"panic": "hw_wdt"}],
        "hang": [{"hang": True}],
        "restart": [{"restart": True}],
        "flood": [{"flood": 65536}],
    },
}


@dataclass(frozen=True)
class DemoApp:
    """One application of the set. None takes the set's value, or one derived from the rest."""

    version: str | None = None
    project_name: str = DEMO_PROJECT
    elf_sha256: str | None = None
    """64 hex digits."""
    idf_version: str | None = None
    date: str = "Jan  5 2026"
    time: str = "12:34:56"
    min_chip_revision: tuple[int, int] = (0, 0)
    script: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DemoBootloader:
    """The second-stage bootloader of the set."""

    idf_version: str | None = None
    compile_time: str | None = None
    quad_io: bool = True
    min_chip_revision: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Memory:
    """Load addresses on one chip, and its ESP-IDF: the addresses follow real builds."""

    bootloader: tuple[tuple[int, int], ...]
    """(address, size) of the bootloader's segments."""
    bootloader_entry: int
    app_entry: int
    drom: int
    irom: int
    dram: int
    iram: int
    rtc: int
    idf_version: str
    max_revision: tuple[int, int]
    freq_code: int = 0xF


_MEMORY = {
    "esp32": _Memory(
        bootloader=((0x3FFF0030, 6424), (0x40078000, 15632), (0x40080400, 4348)),
        bootloader_entry=0x40080688,
        app_entry=0x4008134C,
        drom=0x3F400020,
        irom=0x400D0020,
        dram=0x3FFBDB60,
        iram=0x40080000,
        rtc=0x400C0000,
        idf_version="v4.3.5",
        max_revision=(3, 99),
    ),
    "esp32s3": _Memory(
        bootloader=((0x3FCE2810, 0x178C), (0x403C8700, 0xCB8), (0x403CB700, 0x2D9C)),
        bootloader_entry=0x403C8914,
        app_entry=0x403752A8,
        drom=0x3C190020,
        irom=0x42000020,
        dram=0x3FC93C00,
        iram=0x40374000,
        rtc=0x600FE000,
        idf_version="v5.1.4",
        max_revision=(0, 99),
    ),
    "esp32c3": _Memory(
        bootloader=((0x3FCD5820, 0x1714), (0x403CC710, 0x968), (0x403CE710, 0x2F9C)),
        bootloader_entry=0x403CC710,
        app_entry=0x40380474,
        drom=0x3C190020,
        irom=0x42000020,
        dram=0x3FC8FC00,
        iram=0x40380000,
        rtc=0x50000000,
        idf_version="v4.4.8",
        max_revision=(1, 99),
    ),
    "esp32c6": _Memory(
        bootloader=((0x40875730, 0x1804), (0x4086C410, 0xD14), (0x4086E610, 0x2E8C)),
        bootloader_entry=0x4086C41A,
        app_entry=0x408005A0,
        drom=0x42190020,
        irom=0x42000020,
        dram=0x4081C000,
        iram=0x40800000,
        rtc=0x50000000,
        idf_version="v5.3.2",
        max_revision=(0, 99),
        freq_code=0x0,
    ),
}


@dataclass(frozen=True)
class _Sizes:
    """Bytes of one application's segments, such that RAM segments fill the gaps as in the product's images."""

    drom: int
    irom: int
    dram: int
    iram: int
    rtc: int = 0x68


_RECOVERY_SIZES = _Sizes(drom=0x536C8, irom=0xD1970, dram=0x4858, iram=0x147D0)
_OTA_0_SIZES = _Sizes(drom=0xAE8FC, irom=0x17B7F4, dram=0x5A44, iram=0x1E01C)


def demo_firmware(
    chip: str = "esp32",
    version: str = DEMO_VERSION,
    script: Mapping[str, Any] | None = None,
    *,
    recovery: DemoApp = DemoApp(),
    ota_0: DemoApp = DemoApp(),
    bootloader: DemoBootloader = DemoBootloader(),
    ota_slot: int | None = None,
) -> ImageSet:
    """Return bootloader, partition table, otadata and the apps `recovery` (factory) and `ota_0` for a 4 MB board.

    `version` and `script` (default: DEMO_SCRIPT) hold for both apps where they do not say otherwise; both have the
    same version but different ELF SHA-256. `ota_slot` 0 makes otadata select ota_0; None leaves it erased, which
    selects the factory app. Raises FirmwareError for a chip the demo does not know or a value that fits nowhere.
    """
    if chip not in _MEMORY:
        raise FirmwareError(f"There is no demo firmware for {chip!r}, only for {', '.join(_MEMORY)}.")
    idf = _MEMORY[chip].idf_version
    shared = DEMO_SCRIPT if script is None else script
    apps = {}
    for label, app, sizes in (("recovery", recovery, _RECOVERY_SIZES), ("ota_0", ota_0, _OTA_0_SIZES)):
        full = replace(app, version=app.version or version, idf_version=app.idf_version or idf, script=None)
        text = json.dumps(shared if app.script is None else app.script, sort_keys=True)
        elf = app.elf_sha256 or hashlib.sha256(f"{chip} {label} {full} {text}".encode()).hexdigest()
        apps[label] = _app_image(chip, label, sizes, replace(full, elf_sha256=elf), text)
    loader = replace(bootloader, idf_version=bootloader.idf_version or idf)
    contents = {"bootloader": (CHIPS[chip].bootloader_offset, _bootloader_image(chip, loader))}
    contents["partition-table"] = (TABLE_OFFSET, build_partition_table(DEMO_PARTITIONS))
    offsets = {partition.label: partition.offset for partition in DEMO_PARTITIONS}
    contents["otadata"] = (offsets["otadata"], build_otadata(ota_slot))
    for label, image in apps.items():
        contents[label] = (offsets[label], image)
    images = tuple(FlashImage(name, offset, data) for name, (offset, data) in contents.items())
    return ImageSet(images, source="demo", chip=chip)


@lru_cache(maxsize=16)
def _bootloader_image(chip: str, loader: DemoBootloader) -> bytes:
    memory = _MEMORY[chip]
    idf_version = loader.idf_version or memory.idf_version
    has_descriptor = idf_release(idf_version) >= (5, 2)
    compile_time = loader.compile_time or ("Jan  5 2026 12:30:00" if idf_release(idf_version) >= (5, 0) else "12:30:00")
    description = BootloaderDescription(idf_version, compile_time, loader.quad_io)
    head = (description.pack() if has_descriptor else b"") + bootloader_strings(description)
    segments = []
    for address, size in memory.bootloader:
        segments.append((address, head + _filler(f"bootloader {chip}", size - len(head))))
        head = b""
    return write_image(
        segments,
        chip,
        memory.bootloader_entry,
        min_chip_revision=loader.min_chip_revision,
        max_chip_revision=memory.max_revision,
        spi=SpiSettings(freq_code=memory.freq_code),
    )


@lru_cache(maxsize=8)
def _app_image(chip: str, label: str, sizes: _Sizes, app: DemoApp, script: str) -> bytes:
    """Write one application; `app` has all its values but the script, which comes as JSON text to be hashable."""
    memory = _MEMORY[chip]
    assert app.version is not None and app.elf_sha256 is not None and app.idf_version is not None
    description = AppDescription(app.version, app.project_name, app.time, app.date, app.idf_version, app.elf_sha256)
    embedded = embed_script(json.loads(script))
    rodata = embedded + _filler(f"{label} rodata", sizes.drom - len(description.pack()) - len(embedded))
    return write_image(
        [
            (memory.drom, rodata),
            (memory.dram, _filler(f"{label} dram", sizes.dram)),
            (memory.iram, _filler(f"{label} iram", sizes.iram)),
            (memory.irom, _filler(f"{label} irom", sizes.irom)),
            (memory.rtc, _filler(f"{label} rtc", sizes.rtc)),
        ],
        chip,
        memory.app_entry,
        app=description,
        min_chip_revision=app.min_chip_revision,
        max_chip_revision=memory.max_revision,
        spi=SpiSettings(freq_code=memory.freq_code),
    )


@lru_cache(maxsize=64)
def _filler(name: str, size: int) -> bytes:
    """Return `size` bytes of which about a quarter cannot be compressed, the same for the same name."""
    block, random_part = 4096, 1088
    count = -(-size // block)
    noise = hashlib.shake_128(name.encode()).digest(count * random_part)
    blocks = []
    for start in range(0, len(noise), random_part):
        part = noise[start : start + random_part]
        blocks.append(part + part[:16] * ((block - random_part) // 16))
    return b"".join(blocks)[:size]
