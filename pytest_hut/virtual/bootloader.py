"""ESP-IDF's second-stage bootloader: which application it starts, and what it prints on the way.

Wording and order follow recorded logs of ESP-IDF v4.3.5; the few differences of ESP-IDF 5 follow its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.descriptors import AppDescription, idf_release
from pytest_hut.firmware.image import SPI_MODES, ImageHeader
from pytest_hut.firmware.partitions import (
    OTADATA_SIZE,
    SECTOR,
    SUBTYPE_FACTORY,
    SUBTYPE_OTADATA,
    SUBTYPE_TEST,
    TABLE_OFFSET,
    TABLE_SIZE,
    TYPE_APP,
    TYPE_DATA,
    OtaState,
    Partition,
    build_otadata,
    ota_entries,
    parse_partition_table,
    select_ota_slot,
)
from pytest_hut.virtual.app_check import CheckedApp, check_app, chip_can_run, read_flash
from pytest_hut.virtual.machine import ResetCause
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.rom import LoadedBootloader, chip_revision

_TAG = "boot"
_FACTORY = -1
"""Boot index of the factory application; the OTA slots are 0, 1, ..."""
_DUAL_CORE = ("esp32", "esp32s3")

_INIT_S = 0.18
_STEP_S = 0.006
_SPI_SPEEDS = {0xF: "80MHz", 0x0: "40MHz", 0x1: "26.7MHz", 0x2: "20MHz"}


@dataclass(frozen=True)
class LoadedApp:
    """The application that the bootloader started."""

    partition: Partition
    header: ImageHeader
    bootloader_header: ImageHeader
    rodata: bytes
    """Data of the first mapped segment: the descriptor and what follows it."""
    description: AppDescription | None
    quad_io: bool
    """The flash runs in quad I/O mode."""


@dataclass(frozen=True)
class _Table:
    """The partitions that matter for booting."""

    factory: Partition | None
    test: Partition | None
    otadata: Partition | None
    slots: dict[int, Partition]

    def app(self, index: int) -> Partition | None:
        return self.factory if index == _FACTORY else self.slots.get(index)


def run_bootloader(out: Output, loaded: LoadedBootloader) -> LoadedApp | ResetCause:
    """Print what the bootloader prints for this flash, up to the jump into the application.

    Returns the application, or SOFTWARE when the bootloader gives up and resets the chip. May write otadata.
    """
    out.sleep(_INIT_S)
    _print_version(out, loaded)
    major, minor = chip_revision(out.machine.spec)
    out.info(_TAG, f"chip revision: v{major}.{minor}")
    if not chip_can_run(out, loaded.header):
        return ResetCause.SOFTWARE
    quad_io = _set_up_flash(out, loaded)
    out.sleep(_STEP_S)
    out.info(_TAG, "Enabling RNG early entropy source...")
    out.sleep(_STEP_S)
    table = _load_table(out, loaded.header.flash_size)
    if table is None:
        out.error(_TAG, "load partition table error!")
        return ResetCause.SOFTWARE
    selection = _select(out, table)
    if selection is None:
        return ResetCause.SOFTWARE
    start, first_boot_of_slot = selection
    found = _find_bootable(out, table, start)
    if found is None:
        return ResetCause.SOFTWARE
    index, partition, app = found
    if first_boot_of_slot and index != _FACTORY and table.otadata is not None:
        _record_slot(out, table.otadata, index)
    out.info(_TAG, "Disabling RNG early entropy source...")
    description = AppDescription.unpack(app.rodata)
    return LoadedApp(partition, app.header, loaded.header, app.rodata, description, quad_io)


def _record_slot(out: Output, otadata: Partition, slot: int) -> None:
    flash = out.machine.flash
    if otadata.offset + SECTOR <= flash.size:  # the header may claim more flash than there is
        flash.erase(otadata.offset, SECTOR)
        flash.write(otadata.offset, build_otadata(slot, OtaState.VALID)[:SECTOR])
    out.info(_TAG, f"Set actual ota_seq={slot + 1} in otadata[0]")


def _print_version(out: Output, loaded: LoadedBootloader) -> None:
    if loaded.description is None:
        return
    out.info(_TAG, f"ESP-IDF {loaded.description.idf_version} 2nd stage bootloader")
    out.info(_TAG, f"compile time {loaded.description.compile_time}")
    if idf_release(loaded.description.idf_version) >= (5, 1) and out.machine.spec.chip in _DUAL_CORE:
        out.info(_TAG, "Multicore bootloader")


def _set_up_flash(out: Output, loaded: LoadedBootloader) -> bool:
    """Print speed, mode and size of the flash; return whether it runs in quad I/O mode."""
    chip = out.machine.spec.chip
    header = loaded.header
    wants_quad = header.spi_mode == SPI_MODES.index("qio") or (
        loaded.description is not None and loaded.description.quad_io
    )
    quad_io = wants_quad and out.machine.spec.flash_quad
    if wants_quad:
        out.info("qio_mode", "Enabling default flash chip QIO")
        if not quad_io:
            out.error("qio_mode", "Failed to set QIE bit, not enabling QIO mode")
    plain_mode = SPI_MODES[header.spi_mode].upper() if header.spi_mode < len(SPI_MODES) else "SLOW READ"
    mode = "QIO" if quad_io else "DIO" if wants_quad else plain_mode
    speed = "80MHz" if chip == "esp32c6" and header.spi_freq == 0 else _SPI_SPEEDS.get(header.spi_freq, "20MHz")
    tag = f"boot.{chip}"
    out.info(tag, f"{'Boot SPI Speed' if chip == 'esp32s3' else 'SPI Speed     '} : {speed}")
    out.info(tag, f"SPI Mode       : {mode}")
    out.info(tag, f"SPI Flash Size : {header.flash_size >> 20}MB")
    return quad_io


def _load_table(out: Output, flash_size: int) -> _Table | None:
    try:
        partitions = parse_partition_table(out.machine.flash.read(TABLE_OFFSET, TABLE_SIZE), flash_size)
    except FirmwareError as error:
        out.error("flash_parts", str(error))
        out.error(_TAG, "Failed to verify partition table")
        return None
    out.info(_TAG, "Partition Table:")
    out.info(_TAG, "## Label            Usage          Type ST Offset   Length")
    for number, partition in enumerate(partitions):
        out.info(
            _TAG,
            f"{number:2d} {partition.label:<16s} {partition.usage:<16s} {partition.type:02x}"
            f" {partition.subtype:02x} {partition.offset:08x} {partition.size:08x}",
        )
    out.info(_TAG, "End of partition table")
    # Of several partitions of one kind the last one counts.
    by_kind = {(partition.type, partition.subtype): partition for partition in partitions}
    return _Table(
        factory=by_kind.get((TYPE_APP, SUBTYPE_FACTORY)),
        test=by_kind.get((TYPE_APP, SUBTYPE_TEST)),
        otadata=by_kind.get((TYPE_DATA, SUBTYPE_OTADATA)),
        slots={partition.ota_slot: partition for partition in partitions if partition.ota_slot is not None},
    )


def _select(out: Output, table: _Table) -> tuple[int, bool] | None:
    """Return (boot index, whether otadata is to be set when that slot boots), None when the chip resets."""
    if table.otadata is None:
        return _FACTORY, False
    if table.otadata.size < OTADATA_SIZE:
        out.error(_TAG, f"ota_info partition size {table.otadata.size} is too small (minimum {OTADATA_SIZE} bytes)")
        return None
    out.sleep(_STEP_S)
    otadata = read_flash(out.machine, table.otadata.offset, OTADATA_SIZE)
    if not table.slots or all(entry.blank for entry in ota_entries(otadata)):
        if table.factory is not None:
            out.info(_TAG, "Defaulting to factory image")
            return _FACTORY, False
        out.info(_TAG, "No factory image, trying OTA 0")
        return 0, True
    slot = select_ota_slot(otadata, len(table.slots))
    if slot is not None:
        return slot, False
    if table.factory is not None:
        out.error(_TAG, "ota data partition invalid, falling back to factory")
    else:
        out.error(_TAG, "ota data partition invalid and no factory, will try all partitions")
    return _FACTORY, False


def _find_bootable(out: Output, table: _Table, start: int) -> tuple[int, Partition, CheckedApp] | None:
    """Try the selected application, then backwards to the factory app, then forwards, then the test app."""
    candidates = [*range(start, _FACTORY - 1, -1), *range(start + 1, len(table.slots))]
    for index in candidates:
        partition = table.app(index)
        if partition is None:
            continue
        app = _try(out, partition)
        if app is not None:
            return index, partition, app
        name = "Factory app partition" if index == _FACTORY else f"OTA app partition slot {index}"
        out.error(_TAG, f"{name} is not bootable")
    if table.test is not None:
        app = _try(out, table.test)
        if app is not None:
            out.log("W", _TAG, "Falling back to test app as only bootable partition")
            return _FACTORY, table.test, app
    out.error(_TAG, "No bootable app partitions in the partition table")
    return None


def _try(out: Output, partition: Partition) -> CheckedApp | None:
    app = check_app(out, partition)
    if app is not None:
        out.info(_TAG, f"Loaded app from partition at offset {partition.offset:#x}")
    return app
