"""Reads one boot: ROM, second-stage bootloader, and the application's banner."""

from __future__ import annotations

from pytest_hut.board import bootlog_patterns as words
from pytest_hut.board.bootlog_model import (
    AppStarted,
    Boot,
    BootComplete,
    BootEvent,
    BootFault,
    BootFaultSeen,
    FaultKind,
    PartitionLine,
    RejectedApp,
)

_APP_TYPE = 0
_FACTORY, _TEST, _FIRST_OTA = 0x00, 0x20, 0x10
_SECTOR = 0x1000
_MOST_LINES_BEFORE_BANNER = 100
_MOST_LINES_OF_NOISE = 50
"""More readable lines than this are an application whose start was lost on the wire."""
_MOST_LIST_ENTRIES = 100
"""Bounds what a bootloader gone mad can make us keep."""


class BootReader:
    """Fills one `Boot` from the lines that follow its reset."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self._rom_done = False
        self._reason = ""
        """Why the image being tried is bad, until the bootloader draws its conclusion."""
        self._image_offset: int | None = None
        self._other_lines = 0
        self._app_lines = 0

    @property
    def done(self) -> bool:
        """Whether nothing more is to be learned before the next reset."""
        return self.boot.complete or self.boot.download_mode or self.boot.panic is not None

    def line(self, text: str, time_s: float) -> list[BootEvent]:
        """Take one cleaned line that belongs to no crash report."""
        boot = self.boot
        parts = words.split_log_line(text)
        if not boot.app_started:
            if parts and words.BOOTLOADER_TAG.fullmatch(parts[1]):
                return self._bootloader(*parts, time_s)
            if parts is None and self._rom(text):
                return self._rom_fault(text, time_s)
            if not self._is_app(text, logged=parts is not None):
                return []
            boot.app_s = time_s
            return [AppStarted(boot, time_s), *self._app(text, parts, time_s)]
        return self._app(text, parts, time_s)

    def resume_for_banner(self) -> None:
        """The application's banner came after the boot was declared complete: read it."""
        self.boot.complete_s = None
        self._app_lines = 0

    def _rom(self, text: str) -> bool:
        """Take a line of the ROM; everything up to `entry 0x..` is one, or is noise."""
        if self._rom_done or self.boot.bootloader_s is not None:
            return False
        if words.ENTRY.search(text):
            self._rom_done = True
        elif match := words.SAVED_PC.search(text):
            self.boot.saved_pc = int(match[1], 16)
        elif text.startswith("waiting for download"):
            self.boot.download_mode = True
        elif self.boot.failure is None and words.readable(text):
            # The ROM may go on for ever about a fault, but has not much else to say.
            self._other_lines += 1
            return self._other_lines < _MOST_LINES_OF_NOISE
        return True

    def _rom_fault(self, text: str, time_s: float) -> list[BootEvent]:
        if match := words.INVALID_HEADER.search(text):
            if match[1] == "0xffffffff":
                return self._fail(FaultKind.BLANK_FLASH, match[0], f"the flash is blank ({match[0]})", time_s)
            cause = f"there is no bootloader where the ROM looks for it ({match[0]})"
            return self._fail(FaultKind.INVALID_HEADER, match[0], cause, time_s)
        if match := words.FLASH_READ.search(text):
            cause = f"the ROM cannot read a bootloader: the flash is blank, damaged or does not answer ({match[0]})"
            return self._fail(FaultKind.FLASH_READ, match[0], cause, time_s)
        if match := words.BOOTLOADER_DAMAGED.search(text):
            return self._fail(
                FaultKind.BOOTLOADER_DAMAGED, match[0], f"the bootloader in the flash is damaged ({match[0]})", time_s
            )
        return []

    def _bootloader(self, level: str, tag: str, message: str, time_s: float) -> list[BootEvent]:
        boot = self.boot
        if boot.bootloader_s is None:
            boot.bootloader_s = time_s
        if tag == "boot":
            return self._boot_tag(message, time_s)
        if match := words.SEGMENT_0.match(message):
            self._image_offset = int(match[1], 16) // _SECTOR * _SECTOR
        elif level == "E":
            if match := words.IMAGE_AT.match(message):
                self._image_offset = int(match[1], 16)
            self._reason = message
            if tag == "flash_parts":
                return self._bad_table(message, time_s)
            # Before the partition table, the image that was checked is the bootloader itself.
            if tag == "boot_comm" and not boot.partitions:
                return self._wrong_chip(message, time_s)
        return []

    def _boot_tag(self, message: str, time_s: float) -> list[BootEvent]:
        boot = self.boot
        if match := words.PARTITION.match(message):
            if len(boot.partitions) < _MOST_LIST_ENTRIES:
                boot.partitions.append(
                    PartitionLine(
                        label=match["label"].strip(),
                        type=int(match["type"], 16),
                        subtype=int(match["subtype"], 16),
                        offset=int(match["offset"], 16),
                        size=int(match["size"], 16),
                    )
                )
        elif match := words.BOOTLOADER_BANNER.search(message):
            boot.bootloader_version = match[1]
        elif match := words.CHIP_REVISION.match(message):
            boot.chip_revision = match[1]
        elif match := words.LOADED_APP.match(message):
            boot.loaded_s = time_s
            boot.partition_offset = int(match[1], 16)
            boot.partition = next((p.label for p in boot.partitions if p.offset == boot.partition_offset), None)
        elif match := words.NOT_BOOTABLE.match(message):
            self._reject(match["name"], match["slot"])
        elif message.startswith("No bootable app partitions"):
            return self._fail(FaultKind.NO_BOOTABLE_APP, message, self._nothing_bootable(), time_s)
        elif message.startswith(("load partition table error", "Failed to verify partition table")):
            return self._bad_table(message, time_s)
        return []

    def _reject(self, name: str, slot: str | None) -> None:
        subtype = {"Factory app": _FACTORY, "Test app": _TEST}.get(name, _FIRST_OTA + int(slot or 0))
        entry = next((p for p in self.boot.partitions if (p.type, p.subtype) == (_APP_TYPE, subtype)), None)
        plain = name if slot is None else f"{name} slot {slot}"
        if len(self.boot.rejected) < _MOST_LIST_ENTRIES:
            self.boot.rejected.append(
                RejectedApp(
                    name=entry.label if entry else plain,
                    offset=entry.offset if entry else self._image_offset,
                    reason=self._reason,
                )
            )
        self._reason, self._image_offset = "", None

    def _nothing_bootable(self) -> str:
        tried = [
            f"{app.name}{'' if app.offset is None else f' at {app.offset:#x}'}: {app.reason or 'no reason given'}"
            for app in self.boot.rejected
        ]
        details = "; ".join(tried) or self._reason or "none was tried"
        return f"No bootable app partitions in the partition table ({details})"

    def _bad_table(self, message: str, time_s: float) -> list[BootEvent]:
        return self._fail(FaultKind.PARTITION_TABLE, message, f"the partition table is bad ({message})", time_s)

    def _wrong_chip(self, message: str, time_s: float) -> list[BootEvent]:
        if words.CHIP_REVISION_REFUSED.search(message):
            cause = f"the firmware does not run on this revision of the chip ({message})"
            return self._fail(FaultKind.CHIP_REVISION, message, cause, time_s)
        if words.WRONG_CHIP.search(message):
            return self._fail(FaultKind.WRONG_CHIP, message, f"the firmware is for another chip ({message})", time_s)
        return []

    def _fail(self, kind: FaultKind, text: str, cause: str, time_s: float) -> list[BootEvent]:
        if self.boot.failure is not None:
            return []
        self.boot.failure = BootFault(kind=kind, text=text, cause=cause, time_s=time_s)
        return [BootFaultSeen(self.boot.failure, self.boot, time_s)]

    def _is_app(self, text: str, *, logged: bool) -> bool:
        """Whether a line that neither ROM nor bootloader prints comes from the application."""
        if not words.readable(text):
            return False
        if logged or self.boot.loaded_s is not None:
            return True
        # A bootloader built to be silent says nothing between the ROM's last line and the application's first.
        # One that speaks would have said which app it loads: before that, a little other text is noise.
        if self.boot.failure is not None:
            return False
        self._other_lines += 1
        return (self._rom_done and self.boot.bootloader_s is None) or self._other_lines >= _MOST_LINES_OF_NOISE

    def _app(self, text: str, parts: tuple[str, str, str] | None, time_s: float) -> list[BootEvent]:
        self._app_lines += 1
        if parts and (match := words.APP_INFO.match(parts[2])) and parts[1] in ("cpu_start", "app_init"):
            return self._banner(match[1], match[2], time_s)
        startup = (parts and (_is_startup(parts[1]) or words.BOOTLOADER_TAG.fullmatch(parts[1]))) or (
            not parts and (words.STARTUP_TEXT.search(text) or not words.readable(text))
        )
        if startup and self._app_lines < _MOST_LINES_BEFORE_BANNER:
            return []
        return self._complete(time_s)

    def _banner(self, name: str, value: str, time_s: float) -> list[BootEvent]:
        boot = self.boot
        if name == "Project name":
            boot.project = value
        elif name == "App version":
            boot.app_version = value
        elif name == "Compile time":
            boot.compile_time = value
        elif name == "ELF file SHA256":
            boot.elf_sha256 = value
        else:
            boot.idf_version = value
            return self._complete(time_s)
        return []

    def _complete(self, time_s: float) -> list[BootEvent]:
        self.boot.complete_s = time_s
        return [BootComplete(self.boot, time_s)]


def _is_startup(tag: str) -> bool:
    return words.STARTUP_TAG.fullmatch(tag) is not None
