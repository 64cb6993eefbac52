"""What a boot log tells, as data: boots, faults, panics, and the events that announce them.

`Boot` and `Panic` are filled in while their lines arrive; events are frozen and point at them. All `*_s` values
are host times in seconds, as handed to `BootLog.feed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class ResetCategory(Enum):
    """Why the chip started, told by the ROM in words that differ by chip."""

    POWER_ON = "power on"
    """Power came, or EN rose: the ROM cannot tell the two apart."""
    SOFTWARE = "software"
    """esp_restart(), the end of a panic, or the bootloader giving up."""
    WATCHDOG = "watchdog"
    BROWN_OUT = "brown-out"
    DEEP_SLEEP = "deep sleep"
    OTHER = "other"
    """Reset by a debugger, USB, SDIO, a glitch detector."""
    UNKNOWN = "unknown"
    """The ROM's `rst:` line was not seen."""


class PanicKind(Enum):
    """What ended, or nearly ended, the application."""

    ABORT = "abort"
    ASSERT = "assert"
    GURU = "exception"
    TASK_WATCHDOG = "task watchdog"
    INTERRUPT_WATCHDOG = "interrupt watchdog"
    HARDWARE_WATCHDOG = "hardware watchdog"
    """Seen only by the ROM's reset reason: the firmware printed nothing."""
    STACK_SMASH = "stack smashing"
    STACK_OVERFLOW = "stack overflow"
    BROWN_OUT = "brown-out"
    OTHER = "other"


class FaultKind(Enum):
    """Why a chip could not reach its application."""

    BLANK_FLASH = "blank flash"
    INVALID_HEADER = "no bootloader"
    FLASH_READ = "flash unreadable"
    BOOTLOADER_DAMAGED = "bootloader damaged"
    PARTITION_TABLE = "bad partition table"
    NO_BOOTABLE_APP = "no bootable app"
    CHIP_REVISION = "wrong chip revision"
    WRONG_CHIP = "wrong chip"


@dataclass(frozen=True)
class BootFault:
    """A boot that cannot succeed with what is in the flash."""

    kind: FaultKind
    text: str
    """The identifying line in the product's own words, without colour codes and log prefix."""
    cause: str
    """One plain sentence, without a full stop, that contains `text`."""
    time_s: float


@dataclass
class Panic:
    """One crash report of the firmware, or one complaint of the task watchdog."""

    kind: PanicKind
    text: str
    """The identifying line in the product's own words, without colour codes."""
    time_s: float
    fatal: bool = True
    """False for a task watchdog that only complains (`CONFIG_ESP_TASK_WDT_PANIC` off): the application goes on."""
    cause: str = ""
    """e.g. `StoreProhibited`, the asserted expression, the starving task; empty where not printed."""
    core: int | None = None
    pc: int | None = None
    address: int | None = None
    """The data address that faulted (EXCVADDR, MTVAL)."""
    backtrace: str = ""
    """As printed behind `Backtrace:`; empty on chips that print a stack dump instead."""
    elf_sha256: str | None = None
    """As printed: a prefix of the ELF file's SHA-256 in hex."""


@dataclass(frozen=True)
class PartitionLine:
    """One line of the partition table that the bootloader prints."""

    label: str
    type: int
    subtype: int
    offset: int
    size: int


@dataclass(frozen=True)
class RejectedApp:
    """An app partition that the bootloader tried and would not boot."""

    name: str
    """Its label in the printed partition table, or the bootloader's words for it where no table was printed."""
    offset: int | None
    reason: str
    """The bootloader's words, e.g. `Image hash failed - image is corrupt`; empty where it gave none."""


@dataclass
class Boot:
    """One start of the chip, from the ROM's `rst:` line to the next one."""

    number: int
    """1 for the first boot in the log."""
    reset_code: int | None = None
    """None when the ROM's line was lost (line noise, other baud rate)."""
    reset_reason: str = ""
    """The ROM's word: `POWERON_RESET`, on newer chips `POWERON`."""
    category: ResetCategory = ResetCategory.UNKNOWN
    boot_mode: int | None = None
    boot_mode_text: str = ""
    download_mode: bool = False
    saved_pc: int | None = None
    """Where the CPU was when the reset came; newer ROMs print it."""
    bootloader_version: str | None = None
    chip_revision: str | None = None
    partitions: list[PartitionLine] = field(default_factory=list)
    rejected: list[RejectedApp] = field(default_factory=list)
    """In the order they were tried. Not empty although the app started: the bootloader fell back silently."""
    partition_offset: int | None = None
    partition: str | None = None
    """Label of the app partition that was loaded; None when not loaded or no table was printed."""
    project: str | None = None
    app_version: str | None = None
    compile_time: str | None = None
    elf_sha256: str | None = None
    """As printed: 9 to 64 hex digits of the ELF file's SHA-256, all zero when the build did not fill it in."""
    idf_version: str | None = None
    reset_s: float | None = None
    bootloader_s: float | None = None
    loaded_s: float | None = None
    app_s: float | None = None
    """First line that only the application prints."""
    complete_s: float | None = None
    failure: BootFault | None = None
    panic: Panic | None = None
    task_watchdog: Panic | None = None
    """The last complaint of a task watchdog that does not reset."""

    @property
    def app_started(self) -> bool:
        """Whether a line of the application was seen."""
        return self.app_s is not None

    @property
    def complete(self) -> bool:
        """The application runs, and what it prints about itself has arrived or will not come (see `BootComplete`)."""
        return self.complete_s is not None

    @property
    def has_app_info(self) -> bool:
        """Whether the application printed its version or ELF SHA-256."""
        return self.app_version is not None or self.elf_sha256 is not None


@dataclass(frozen=True)
class ResetSeen:
    """The chip started: `boot` is new. Where the ROM's line is lost, the next banner stands for it."""

    boot: Boot
    time_s: float


@dataclass(frozen=True)
class AppStarted:
    """The first line of the application arrived."""

    boot: Boot
    time_s: float


@dataclass(frozen=True)
class BootComplete:
    """The application runs and its banner (project, version, ELF SHA-256, ESP-IDF) is in.

    Where no banner is printed (log level below info), the first line of the application proper stands for it and
    `boot.has_app_info` is False. Should a banner come after that, the event is repeated with the data filled in.
    """

    boot: Boot
    time_s: float


@dataclass(frozen=True)
class BootFaultSeen:
    """ROM or bootloader said that this boot cannot succeed."""

    fault: BootFault
    boot: Boot
    time_s: float


@dataclass(frozen=True)
class TaskWatchdogSeen:
    """The task watchdog complained. The application goes on unless `PanicSeen` with the same `panic` follows."""

    panic: Panic
    boot: Boot | None
    time_s: float


@dataclass(frozen=True)
class PanicSeen:
    """The firmware crashed. `boot` is None when its start is not in the log."""

    panic: Panic
    boot: Boot | None
    time_s: float


@dataclass(frozen=True)
class PanicEnded:
    """The crash report is over (`Rebooting...`, a halt, or the next reset): backtrace and ELF SHA-256 are in."""

    panic: Panic
    boot: Boot | None
    time_s: float


@dataclass(frozen=True)
class BootLoopSeen:
    """The chip reset itself `resets` times in a row without staying up."""

    boot: Boot
    resets: int
    time_s: float


BootEvent = (
    ResetSeen | AppStarted | BootComplete | BootFaultSeen | TaskWatchdogSeen | PanicSeen | PanicEnded | BootLoopSeen
)
