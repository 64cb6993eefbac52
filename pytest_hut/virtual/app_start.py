"""What ESP-IDF's start-up code prints in an application, before anything of the application itself runs.

Three generations of wording: up to 4.x as recorded from v4.3.5; 5.0 and 5.1; 5.2 and later.
"""

from __future__ import annotations

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.console_script import ConsoleScript, find_script
from pytest_hut.firmware.descriptors import APP_DESCRIPTOR_SIZE, AppDescription, idf_release
from pytest_hut.firmware.image import REVISION_UNLIMITED
from pytest_hut.virtual.bootloader import LoadedApp
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.rom import chip_revision

_ENTRY_TO_SECOND_CPU = 0xB4
"""ESP-IDF 4.3 on the ESP32 links the second CPU's entry so far before the image's entry."""
_SECOND_CPU_BEHIND_MS = 165
_PSRAM_CHIPS = ("esp32", "esp32s3")
_DUAL_CORE = _PSRAM_CHIPS
_PSRAM_MISSING_TEXT = b"PSRAM ID read error"
_PSRAM_REQUIRED_TEXT = b"Failed to init external RAM, needed for external .bss segment"
_STEP_S = 0.01

_HEAP = {
    "esp32": (
        ("3FFAFF10", "000000F0", 0, "DRAM"),
        ("3FFB6388", "00001C78", 7, "DRAM"),
        ("3FFB9A20", "00004108", 16, "DRAM"),
        ("3FFC47F8", "0001B808", 110, "DRAM"),
        ("3FFE0440", "00003AE0", 14, "D/IRAM"),
        ("3FFE4350", "0001BCB0", 111, "D/IRAM"),
        ("400947D0", "0000B830", 46, "IRAM"),
    ),
    "esp32s3": (("3FC98C00", "00050B10", 322, "RAM"), ("3FCE9710", "00005724", 21, "RAM")),
    "esp32c3": (("3FC8FFC0", "00030040", 192, "RAM"), ("50000200", "00001DE8", 7, "RTCRAM")),
    "esp32c6": (("40821000", "0005B610", 365, "RAM"), ("50000068", "00003F80", 15, "RTCRAM")),
}


def read_script(out: Output, app: LoadedApp) -> ConsoleScript | None:
    """Return the script the image carries; one that cannot be read is complained of on the console."""
    try:
        return find_script(app.rodata[APP_DESCRIPTOR_SIZE:])
    except FirmwareError as error:
        out.error("console_script", str(error))
        return None


def psram_use(app: LoadedApp, script: ConsoleScript | None) -> str | None:
    """Return `required`, `optional` or None: what the script says, or what the strings of real firmware tell."""
    if script is not None:
        return script.psram
    if _PSRAM_MISSING_TEXT not in app.rodata:
        return None
    return "required" if _PSRAM_REQUIRED_TEXT in app.rodata else "optional"


def print_start(out: Output, app: LoadedApp, use_of_psram: str | None) -> bool:
    """Print the start-up lines; False when the application cannot start for want of PSRAM and aborts."""
    release = idf_release(app.description.idf_version) if app.description else (0, 0)
    spec = out.machine.spec
    uses_psram = use_of_psram is not None and spec.chip in _PSRAM_CHIPS
    has_psram = "psram" in spec.features
    out.sleep(_STEP_S)
    if uses_psram and not _print_psram(out, release, has_psram, use_of_psram):
        return False
    _print_cpus(out, app, release)
    if uses_psram and has_psram:
        out.info("spiram" if release < (5, 0) else "esp_psram", "SPI SRAM memory test OK")
    out.sleep(_STEP_S)
    frequency = "160000000" if spec.chip in ("esp32c3", "esp32c6") else "240000000"
    out.info("cpu_start", "Pro cpu start user code")
    out.info("cpu_start", f"cpu freq: {frequency}" + (" Hz" if release >= (5, 0) else ""))
    if app.description is not None:
        _print_application(out, app, app.description, release)
    _print_memory(out, app, release, with_psram=uses_psram and has_psram)
    return True


def _print_psram(out: Output, release: tuple[int, int], has_psram: bool, use: str | None) -> bool:
    old = release < (5, 0)
    chip_tag, pool_tag = ("psram", "spiram") if old else ("quad_psram", "esp_psram")
    if out.machine.spec.chip == "esp32":
        out.info(chip_tag, "This chip is ESP32-D0WD")
    if has_psram:
        out.info(pool_tag, "Found 32MBit SPI RAM device" if old else "Found 4MB PSRAM device")
        out.info(pool_tag, "SPI RAM mode: flash 80m sram 80m" if old else "Speed: 80MHz")
        if out.machine.spec.chip == "esp32":
            out.info(pool_tag, "PSRAM initialized, cache is in low/high (2-core) mode.")
        return True
    out.error(chip_tag, "PSRAM ID read error: 0x00000000")
    if use == "required":
        out.error("cpu_start", "Failed to init external RAM, needed for external .bss segment")
        return False
    out.info("cpu_start", "Failed to init external RAM; continuing without it.")
    return True


def _print_cpus(out: Output, app: LoadedApp, release: tuple[int, int]) -> None:
    dual = out.machine.spec.chip in _DUAL_CORE
    if release >= (5, 1):
        out.info("cpu_start", "Multicore app" if dual else "Unicore app")
        return
    out.info("cpu_start", "Pro cpu up.")
    if dual:
        entry = app.header.entry - _ENTRY_TO_SECOND_CPU
        out.info("cpu_start", f"Starting app cpu, entry point is {entry & 0xFFFFFFFF:#010x}")
        out.log("I", "cpu_start", "App cpu up.", at_ms=max(0, out.uptime_ms - _SECOND_CPU_BEHIND_MS))


def _print_application(out: Output, app: LoadedApp, about: AppDescription, release: tuple[int, int]) -> None:
    tag, revision_tag = ("app_init", "efuse_init") if release >= (5, 2) else ("cpu_start", "cpu_start")
    digits = 9 if release >= (5, 1) else 16
    out.info(tag, "Application information:")
    out.info(tag, f"Project name:     {about.project_name}")
    out.info(tag, f"App version:      {about.version}")
    out.info(tag, f"Compile time:     {about.date} {about.time}")
    out.info(tag, f"ELF file SHA256:  {about.elf_sha256[:digits]}...")
    out.info(tag, f"ESP-IDF:          {about.idf_version}")
    # Old tools leave the application's limits out; the bootloader of the same build has them.
    limits = app.header if app.header.max_revision_full != REVISION_UNLIMITED else app.bootloader_header
    least, most = limits.min_revision, divmod(limits.max_revision_full, 100)
    there = chip_revision(out.machine.spec)
    out.info(revision_tag, f"Min chip rev:     v{least[0]}.{least[1]}")
    out.info(revision_tag, f"Max chip rev:     v{most[0]}.{most[1]} ")
    out.info(revision_tag, f"Chip rev:         v{there[0]}.{there[1]}")


def _print_memory(out: Output, app: LoadedApp, release: tuple[int, int], *, with_psram: bool) -> None:
    spec = out.machine.spec
    old = release < (5, 0)
    out.info("heap_init", "Initializing. RAM available for dynamic allocation:")
    for address, length, kib, kind in _HEAP[spec.chip]:
        out.info("heap_init", f"At {address} len {length} ({kib} KiB): {kind}")
    if with_psram and old:
        out.info("spiram", "Adding pool of 4096K of external SPI memory to heap allocator")
    elif with_psram:
        out.info("esp_psram", "Adding pool of 4096K of PSRAM memory to heap allocator")
    out.sleep(2 * _STEP_S)
    out.info("spi_flash", "detected chip: gd" if old else "detected chip: generic")
    out.info("spi_flash", f"flash io: {'qio' if app.quad_io else 'dio'}")
    built_for = app.bootloader_header.flash_size
    if spec.flash_size > built_for:
        out.log(
            "W",
            "spi_flash",
            f"Detected size({spec.flash_size >> 10}k) larger than the size in the binary image"
            f" header({built_for >> 10}k). Using the size in the binary image header.",
        )
    out.sleep(2 * _STEP_S)
    if not old:
        out.info("main_task", "Started on CPU0")
        out.info("main_task", "Calling app_main()")
    elif spec.chip in _DUAL_CORE:
        out.info("cpu_start", "Starting scheduler on PRO CPU.")
        out.log("I", "cpu_start", "Starting scheduler on APP CPU.", at_ms=0)
    else:
        out.info("cpu_start", "Starting scheduler.")
    if with_psram:
        kind = "spiram" if old else "esp_psram"
        out.info(kind, "Reserving pool of 64K of internal memory for DMA/internal allocations")
