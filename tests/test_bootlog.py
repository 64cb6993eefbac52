"""The boot log parser against recorded logs, against other chips' and ESP-IDF versions' words, and against noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_hut.board.bootlog import BootLog
from pytest_hut.board.bootlog_model import (
    AppStarted,
    Boot,
    BootComplete,
    BootEvent,
    BootFaultSeen,
    BootLoopSeen,
    FaultKind,
    PanicEnded,
    PanicKind,
    PanicSeen,
    RejectedApp,
    ResetCategory,
    ResetSeen,
    TaskWatchdogSeen,
)
from pytest_hut.board.bootlog_patterns import NEEDLES, reset_category

LOGS = Path(__file__).parent / "data" / "bootlogs"
RECOVERY_ELF = "cb6e33b554ef2339"
OTA_ELF = "0000000000000000"
VERSION = "I2S-4MFlash-1716"
ABORT = "abort() was called at PC 0x400813b7 on core 0"
ASSERT = "assert failed: 0x400848d9"
GURU = "Guru Meditation Error: Core  0 panic'ed (StoreProhibited). Exception was unhandled."
EXCEEDS = "partition 3 invalid - offset 0x150000 size 0x500000 exceeds flash chip size 0x400000"
CHIP_TOO_OLD = "Image requires chip rev >= v1.0, but chip is v0.0"
NO_APP = "No bootable app partitions in the partition table"


@dataclass(frozen=True)
class Expected:
    """One boot: reset, partition, version, ELF, panic (kind, text), fault (kind, text), rejected (name, reason)."""

    reset: str
    partition: str | None = None
    version: str | None = None
    elf: str | None = None
    panic: tuple[PanicKind, str] | None = None
    fault: tuple[FaultKind, str] | None = None
    rejected: tuple[tuple[str, str], ...] = ()
    app: bool = False


def told(boot: Boot) -> Expected:
    """What the parser made of a boot, in the table's terms."""
    return Expected(
        reset=boot.reset_reason,
        partition=boot.partition,
        version=boot.app_version,
        elf=boot.elf_sha256,
        panic=(boot.panic.kind, boot.panic.text) if boot.panic else None,
        fault=(boot.failure.kind, boot.failure.text) if boot.failure else None,
        rejected=tuple((app.name, app.reason) for app in boot.rejected),
        app=boot.app_started,
    )


def recovery(reset: str, panic: tuple[PanicKind, str] | None = None) -> Expected:
    return Expected(reset, "recovery", VERSION, RECOVERY_ELF, panic, app=True)


def nothing_bootable(*rejected: tuple[str, str]) -> Expected:
    return Expected("POWERON_RESET", fault=(FaultKind.NO_BOOTABLE_APP, NO_APP), rejected=rejected)


ASSERTED = (PanicKind.ASSERT, ASSERT)
ABORTED = Expected("POWERON_RESET", "recovery", panic=(PanicKind.ABORT, ABORT), app=True)
MD5 = (FaultKind.PARTITION_TABLE, "Incorrect MD5 checksum")
TOO_LARGE = (FaultKind.PARTITION_TABLE, EXCEEDS)
TOO_OLD = (FaultKind.CHIP_REVISION, CHIP_TOO_OLD)
LENGTH = "invalid segment length 0xffffffff"

RECORDED: dict[str, list[Expected]] = {
    "release-full": [
        recovery("POWERON_RESET", ASSERTED),
        recovery("SW_CPU_RESET", ASSERTED),
        recovery("SW_CPU_RESET", ASSERTED),
        recovery("SW_CPU_RESET", ASSERTED),
        recovery("SW_CPU_RESET", (PanicKind.GURU, GURU)),
        recovery("SW_CPU_RESET", ASSERTED),
        recovery("SW_CPU_RESET", ASSERTED),
    ],
    "abort-bootloop": [
        ABORTED,
        Expected("SW_CPU_RESET", "recovery", panic=(PanicKind.ABORT, ABORT), app=True),
        Expected("SW_CPU_RESET"),
    ],
    "ota0-selected": [Expected("POWERON_RESET", "ota_0", VERSION, OTA_ELF, app=True)],
    "corrupt-factory-falls-back-to-ota0": [
        Expected(
            "POWERON_RESET",
            "ota_0",
            VERSION,
            OTA_ELF,
            rejected=(("recovery", "Image hash failed - image is corrupt"),),
            app=True,
        )
    ],
    "corrupt-both-apps": [
        nothing_bootable(
            ("recovery", "Checksum failed. Calculated 0xf7 read 0xad"),
            ("ota_0", "Checksum failed. Calculated 0xfa read 0xa0"),
        ),
        Expected("SW_RESET"),
    ],
    "truncated-both-apps": [nothing_bootable(("recovery", LENGTH), ("ota_0", LENGTH)), Expected("SW_RESET")],
    "wrong-partition-table": [
        nothing_bootable(
            ("factory", "image at 0x20000 has invalid magic byte (nothing flashed here?)"),
            ("ota_0", "image at 0x160000 has invalid magic byte (nothing flashed here?)"),
        ),
        Expected("SW_RESET"),
    ],
    "blank-flash": [Expected("POWERON_RESET", fault=(FaultKind.BLANK_FLASH, "invalid header: 0xffffffff"))],
    "corrupt-bootloader": [Expected("POWERON_RESET", fault=(FaultKind.BOOTLOADER_DAMAGED, "csum err:0xb9!=0xe3"))],
    "bad-partition-md5": [
        Expected("POWERON_RESET", fault=MD5),
        Expected("SW_RESET", fault=MD5),
        Expected("SW_RESET"),
    ],
    "partition-exceeds-flash": [
        Expected("POWERON_RESET", fault=TOO_LARGE),
        Expected("SW_RESET", fault=TOO_LARGE),
        Expected("SW_RESET"),
    ],
    "chip-revision-too-old": [
        Expected("POWERON_RESET", fault=TOO_OLD),
        Expected("SW_RESET", fault=TOO_OLD),
        Expected("SW_RESET", fault=TOO_OLD),
        Expected("SW_RESET", fault=TOO_OLD),
        Expected("SW_RESET"),
    ],
    "watchdog-reset": [recovery("POWERON_RESET")],
    "download-mode": [Expected("POWERON_RESET")],
}


def recorded(name: str) -> bytes:
    return (LOGS / f"{name}.log").read_bytes()


def feed(*chunks: bytes, log: BootLog | None = None) -> tuple[BootLog, list[BootEvent]]:
    log = log or BootLog()
    events: list[BootEvent] = []
    for chunk in chunks:
        events += log.feed(chunk, 1.0)
    return log, events


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\r\n" for text in texts).encode()


def kinds(events: Iterable[BootEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_every_recorded_log_is_in_the_table() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(RECORDED)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_log_is_read_right(name: str) -> None:
    log, _ = feed(recorded(name))
    assert [told(boot) for boot in log.boots] == RECORDED[name]
    assert [boot.number for boot in log.boots] == list(range(1, len(log.boots) + 1))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_byte_by_byte_gives_the_same(name: str) -> None:
    data = recorded(name)[:30_000]
    whole_log, whole = feed(data)
    log, events = feed(*(data[i : i + 1] for i in range(len(data))))
    assert events == whole
    assert log.boots == whole_log.boots


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(RECORDED)), cuts=st.lists(st.integers(0, 150_000), max_size=40))
def test_any_cut_into_chunks_gives_the_same(name: str, cuts: list[int]) -> None:
    data = recorded(name)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    log, events = feed(*(data[a:b] for a, b in pairwise(places)))
    whole_log, whole = feed(data)
    assert events == whole
    assert log.boots == whole_log.boots


PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([*NEEDLES, b"\r\n", b"\n", b"\r", b"\x1b[0;31m", b"I (1) boot: ", b"entry 0x40080688\r\n"]),
    st.builds(
        lambda data, start, length: data[start : start + length],
        st.sampled_from([recorded(name) for name in ("release-full", "corrupt-both-apps", "abort-bootloop")]),
        st.integers(0, 6000),
        st.integers(1, 700),
    ),
    st.integers(1, 9000).map(lambda n: b"x" * n),
)


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECES, max_size=12))
def test_noise_never_raises_and_chunks_do_not_matter(pieces: list[bytes]) -> None:
    data = b"".join(pieces) + b"\n"
    whole_log, whole = feed(data)
    log, events = feed(*pieces, b"\n")
    assert events == whole
    assert log.boots == whole_log.boots


def test_events_of_a_release_boot_come_in_order() -> None:
    _, events = feed(recorded("release-full"))
    one_boot = ["ResetSeen", "AppStarted", "BootComplete", "PanicSeen", "PanicEnded"]
    assert [kind for kind in kinds(events) if kind != "BootLoopSeen"] == one_boot * 7
    loops = [event for event in events if isinstance(event, BootLoopSeen)]
    assert [(event.boot.number, event.resets) for event in loops] == [(4, 3)]


def test_details_of_a_boot_and_of_a_panic() -> None:
    log, _ = feed(recorded("release-full"))
    boot = log.boots[4]
    assert (boot.reset_code, boot.category, boot.boot_mode, boot.boot_mode_text) == (
        0x0C,
        ResetCategory.SOFTWARE,
        0x12,
        "SPI_FAST_FLASH_BOOT",
    )
    assert (boot.bootloader_version, boot.chip_revision) == ("v4.3.5-dirty", "v3.0")
    assert (boot.project, boot.idf_version, boot.compile_time) == (
        "Squeezelite-ESP32",
        "v4.3.5-dirty",
        "Dec 26 2025 21:00:11",
    )
    assert [(p.label, p.type, p.subtype, p.offset, p.size) for p in boot.partitions][3:5] == [
        ("recovery", 0, 0, 0x10000, 0x140000),
        ("ota_0", 0, 0x10, 0x150000, 0x2A0000),
    ]
    panic = boot.panic
    assert panic is not None
    assert (panic.cause, panic.core, panic.pc, panic.address) == ("StoreProhibited", 0, 0x4008F20D, 0x20)
    assert panic.backtrace.startswith("0x4008f20a:0x3ffbcd90 0x4019f49f")
    assert panic.elf_sha256 == RECOVERY_ELF
    first = log.boots[0].panic
    assert first is not None
    assert first.pc == 0x400848D9
    aborted = feed(recorded("abort-bootloop"))[0].boots[0].panic
    assert aborted is not None
    assert (aborted.core, aborted.pc) == (0, 0x400813B7)
    assert aborted.backtrace.endswith("|<-CORRUPTED")


def test_times_are_those_of_the_chunks() -> None:
    log = BootLog()
    for second, line in enumerate(recorded("ota0-selected").splitlines(keepends=True)):
        log.feed(line, float(second))
    boot = log.boots[0]
    assert (boot.reset_s, boot.bootloader_s, boot.loaded_s, boot.app_s, boot.complete_s) == (2, 10, 33, 35, 50)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("blank-flash", "the flash is blank (invalid header: 0xffffffff)"),
        ("corrupt-bootloader", "the bootloader in the flash is damaged (csum err:0xb9!=0xe3)"),
        ("bad-partition-md5", "the partition table is bad (Incorrect MD5 checksum)"),
        ("chip-revision-too-old", f"the firmware does not run on this revision of the chip ({CHIP_TOO_OLD})"),
        (
            "corrupt-both-apps",
            f"{NO_APP} (recovery at 0x10000: Checksum failed. Calculated 0xf7 read 0xad;"
            " ota_0 at 0x150000: Checksum failed. Calculated 0xfa read 0xa0)",
        ),
    ],
)
def test_a_fault_is_told_in_plain_words(name: str, cause: str) -> None:
    _, events = feed(recorded(name))
    faults = [event.fault for event in events if isinstance(event, BootFaultSeen)]
    assert faults[0].cause == cause


def test_download_mode() -> None:
    boot = feed(recorded("download-mode"))[0].boots[0]
    assert (boot.boot_mode, boot.boot_mode_text, boot.download_mode) == (0x0F, "UART_BOOT(UART0)", True)
    devkit = feed(lines("rst:0x1 (POWERON_RESET),boot:0x3 (DOWNLOAD_BOOT(UART0/UART1/SDIO_REI_REO_V2))"))[0].boots[0]
    assert devkit.download_mode
    c6 = feed(lines("rst:0x15 (USB_UART_HPSYS),boot:0x64 (DOWNLOAD(USB/UART0/SDIO_FEI_FEO))", "waiting for download"))
    assert c6[0].boots[0].download_mode
    torn = feed(lines("rst:0x1 (POWERON),boot:0x4", "waiting for download"))
    assert torn[0].boots[0].download_mode


def test_where_the_cpu_was_before_the_reset() -> None:
    log, _ = feed(lines("rst:0x15 (USB_UART_HPSYS),boot:0x6f (SPI_FAST_FLASH_BOOT)", "Core0 Saved PC:0x408039f0"))
    assert log.boots[0].saved_pc == 0x408039F0


@pytest.mark.parametrize(
    ("code", "word", "category"),
    [
        (0x01, "POWERON_RESET", ResetCategory.POWER_ON),
        (0x01, "POWERON", ResetCategory.POWER_ON),
        (0x03, "SW_RESET", ResetCategory.SOFTWARE),
        (0x03, "RTC_SW_SYS_RST", ResetCategory.SOFTWARE),
        (0x03, "LP_SW_HPSYS", ResetCategory.SOFTWARE),
        (0x0C, "SW_CPU_RESET", ResetCategory.SOFTWARE),
        (0x0C, "RTC_SW_CPU_RST", ResetCategory.SOFTWARE),
        (0x0C, "SW_CPU", ResetCategory.SOFTWARE),
        (0x05, "DEEPSLEEP_RESET", ResetCategory.DEEP_SLEEP),
        (0x05, "DSLEEP", ResetCategory.DEEP_SLEEP),
        (0x07, "TG0WDT_SYS_RESET", ResetCategory.WATCHDOG),
        (0x08, "TG1WDT_SYS_RST", ResetCategory.WATCHDOG),
        (0x08, "TG1_WDT_HPSYS", ResetCategory.WATCHDOG),
        (0x10, "RTCWDT_RTC_RESET", ResetCategory.WATCHDOG),
        (0x10, "LP_WDT_SYS", ResetCategory.WATCHDOG),
        (0x12, "SUPER_WDT_RST", ResetCategory.WATCHDOG),
        (0x0F, "RTCWDT_BROWN_OUT_RESET", ResetCategory.BROWN_OUT),
        (0x0F, "BROWNOUT_RST", ResetCategory.BROWN_OUT),
        (0x0F, "LP_BOD_SYS", ResetCategory.BROWN_OUT),
        (0x0E, "EXT_CPU_RESET", ResetCategory.OTHER),
        (0x15, "USB_UART_CHIP_RESET", ResetCategory.OTHER),
        (0x0F, "", ResetCategory.BROWN_OUT),
        (0x63, "", ResetCategory.OTHER),
    ],
)
def test_reset_reasons_of_all_chips(code: int, word: str, category: ResetCategory) -> None:
    assert reset_category(code, word) is category
    boot = feed(lines(f"rst:{code:#x} ({word}),boot:0x8 (SPI_FAST_FLASH_BOOT)"))[0].boots[0]
    assert (boot.reset_code, boot.reset_reason, boot.category) == (code, word, category)


IDF5_C6 = (
    "ESP-ROM:esp32c6-20220919",
    "Build:Sep 19 2022",
    "rst:0x1 (POWERON),boot:0x6f (SPI_FAST_FLASH_BOOT)",
    "SPIWP:0xee",
    "mode:DIO, clock div:2",
    "load:0x40875720,len:0x16b8",
    "entry 0x4086c11a",
    "I (23) boot: ESP-IDF v5.4.1 2nd stage bootloader",
    "I (23) boot: compile time Apr  2 2025 10:20:22",
    "I (24) boot: chip revision: v0.1",
    "I (40) boot: Partition Table:",
    "I (43) boot: ## Label            Usage          Type ST Offset   Length",
    "I (49) boot:  0 nvs              WiFi data        01 02 00009000 00006000",
    "I (63) boot:  2 factory          factory app      00 00 00010000 00100000",
    "I (69) boot: End of partition table",
    "I (72) esp_image: segment 0: paddr=00010020 vaddr=42018020 size=09d68h ( 40296) map",
    "I (120) boot: Loaded app from partition at offset 0x10000",
    "I (122) boot: Disabling RNG early entropy source...",
    "W (135) pmu_init: blk_version is less than 2, pvt function not supported in efuse.",
    "I (135) cpu_start: Unicore app",
    "I (150) cpu_start: Pro cpu start user code",
    "I (153) app_init: Application information:",
    "I (156) app_init: Project name:     hello_world",
    "I (161) app_init: App version:      a1952e1-dirty",
    "I (165) app_init: Compile time:     Jun  9 2025 16:50:54",
    "I (170) app_init: ELF file SHA256:  dc093ab15...",
    "I (174) app_init: ESP-IDF:          v5.4.1",
    "I (226) main_task: Calling app_main()",
)


def test_a_risc_v_chip_with_idf_5() -> None:
    log, events = feed(lines(*IDF5_C6))
    boot = log.boots[0]
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"]
    assert (boot.reset_reason, boot.bootloader_version, boot.partition, boot.partition_offset) == (
        "POWERON",
        "v5.4.1",
        "factory",
        0x10000,
    )
    assert (boot.project, boot.app_version, boot.elf_sha256, boot.idf_version) == (
        "hello_world",
        "a1952e1-dirty",
        "dc093ab15",
        "v5.4.1",
    )


def test_boot_is_complete_only_when_the_banner_is() -> None:
    log, events = feed(lines(*IDF5_C6[:-2]))
    assert log.boots[0].app_started
    assert not log.boots[0].complete
    _, more = feed(lines(*IDF5_C6[-2:]), log=log)
    assert kinds(events + more) == ["ResetSeen", "AppStarted", "BootComplete"]


def test_an_app_without_banner_is_complete_with_its_own_first_line() -> None:
    log, events = feed(lines(*IDF5_C6[:18], "W (200) my_app: starting", "W (201) my_app: on"))
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"]
    assert not log.boots[0].has_app_info


def test_an_app_behind_a_silent_bootloader() -> None:
    log, events = feed(lines(*IDF5_C6[:7], "Hello from setup()"))
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"]
    assert log.boots[0].bootloader_s is None


def test_a_banner_that_comes_late_completes_the_same_boot_again() -> None:
    log, events = feed(lines(*IDF5_C6[:18], "something unheard of", *IDF5_C6[21:]))
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete", "BootComplete"]
    assert len(log.boots) == 1
    assert log.boots[0].app_version == "a1952e1-dirty"


def test_noise_between_the_lines_is_no_app() -> None:
    noisy = b"".join(line + b"\xff\x00\x80\xfe~~\xf0\r\n" for line in lines(*IDF5_C6[:16]).splitlines(keepends=True))
    log, events = feed(noisy)
    assert kinds(events) == ["ResetSeen"]
    assert not log.boots[0].app_started
    assert feed(lines(*IDF5_C6[16:]), log=log)[0].boots[0].elf_sha256 == "dc093ab15"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n"])
def test_any_line_end_will_do(end: bytes) -> None:
    log, _ = feed(end.join(text.encode() for text in IDF5_C6) + end)
    assert log.boots[0].app_version == "a1952e1-dirty"


def test_rom_output_glued_to_other_text() -> None:
    glued = b"> ets Jul 29 2019 12:21:46rst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    assert feed(b"\xfe\x00" + glued)[0].boots[0].boot_mode == 0x13


def test_a_reset_line_inside_an_application_log_is_none() -> None:
    log, events = feed(lines("I (5) app: last: rst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)", "rst:0x1"))
    assert events == []
    assert log.boots == []
    assert log.current is None


def test_a_boot_whose_rom_lines_are_garbage_is_seen_by_the_bootloader() -> None:
    log, events = feed(recorded("ota0-selected"), b"\xff\xfe\x80\x81\r\n", lines(*IDF5_C6[7:]))
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"] * 2
    assert log.boots[1].category is ResetCategory.UNKNOWN
    assert log.boots[1].app_version == "a1952e1-dirty"


def test_a_boot_seen_only_by_its_banner() -> None:
    log, events = feed(recorded("ota0-selected"), lines(*IDF5_C6[21:]))
    assert kinds(events)[-3:] == ["ResetSeen", "AppStarted", "BootComplete"]
    assert log.boots[1].project == "hello_world"


def crash(*texts: str) -> tuple[BootLog, list[BootEvent]]:
    """Let a booted application print `texts`."""
    log, _ = feed(lines(*IDF5_C6))
    return feed(lines(*texts), log=log)


@pytest.mark.parametrize(
    ("texts", "kind", "cause", "core", "pc"),
    [
        (["abort() was called at PC 0x42007c3e on core 1"], PanicKind.ABORT, "", 1, 0x42007C3E),
        (["abort() was called at PC 0x42007c3e"], PanicKind.ABORT, "", None, 0x42007C3E),
        (
            ["assert failed: xQueueGenericSend queue.c:832 (pxQueue)"],
            PanicKind.ASSERT,
            "xQueueGenericSend queue.c:832 (pxQueue)",
            None,
            None,
        ),
        (
            [
                'assertion "heap != NULL" failed: file "multi_heap.c", line 432, function: multi_heap_malloc',
                "abort() was called at PC 0x400d1a2b on core 0",
            ],
            PanicKind.ASSERT,
            "heap != NULL",
            0,
            0x400D1A2B,
        ),
        (
            [
                "ESP_ERROR_CHECK failed: esp_err_t 0x105 (ESP_ERR_NOT_FOUND) at 0x400d1fdf",
                'file: "./main/main.c" line 22',
                "abort() was called at PC 0x40085a2b on core 0",
            ],
            PanicKind.ABORT,
            "ESP_ERR_NOT_FOUND",
            0,
            0x400D1FDF,
        ),
        (
            ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"],
            PanicKind.ABORT,
            "std::bad_alloc",
            None,
            None,
        ),
        (
            ["Guru Meditation Error: Core  1 panic'ed (LoadProhibited)", "PC      : 0x400d4314  PS      : 0x00060030"],
            PanicKind.GURU,
            "LoadProhibited",
            1,
            0x400D4314,
        ),
        (
            ["half a linGuru Meditation Error: Core 0 panic'ed (Illegal instruction). Exception was unhandled."],
            PanicKind.GURU,
            "Illegal instruction",
            0,
            None,
        ),
        (
            [
                "Guru Meditation Error: Core  0 panic'ed (Store access fault). Exception was unhandled.",
                "MEPC    : 0x420069b4  RA      : 0x420069b4  SP      : 0x3fc90a50",
            ],
            PanicKind.GURU,
            "Store access fault",
            0,
            0x420069B4,
        ),
        (
            ["Guru Meditation Error: Core  0 panic'ed (Interrupt wdt timeout on CPU0). "],
            PanicKind.INTERRUPT_WATCHDOG,
            "Interrupt wdt timeout on CPU0",
            0,
            None,
        ),
        (
            ["Guru Meditation Error: Core 0 panic'ed (Stack protection fault). "],
            PanicKind.STACK_OVERFLOW,
            "Stack protection fault",
            0,
            None,
        ),
        (
            [
                "Guru Meditation Error: Core  1 panic'ed (Unhandled debug exception). ",
                "Debug exception reason: Stack canary watchpoint triggered (main) ",
            ],
            PanicKind.STACK_OVERFLOW,
            "Stack canary watchpoint triggered (main)",
            1,
            None,
        ),
        (
            ["***ERROR*** A stack overflow in task sensor has been detected."],
            PanicKind.STACK_OVERFLOW,
            "sensor",
            None,
            None,
        ),
        (
            ["Stack smashing protect failure!", "abort() was called at PC 0x400e64d8 on core 1"],
            PanicKind.STACK_SMASH,
            "",
            1,
            0x400E64D8,
        ),
        (["E BOD: Brownout detector was triggered"], PanicKind.BROWN_OUT, "", None, None),
        (
            ["Panic handler entered multiple times. Abort panic handling. Rebooting ..."],
            PanicKind.OTHER,
            "",
            None,
            None,
        ),
    ],
)
def test_crash_reports_over_chips_and_versions(
    texts: list[str], kind: PanicKind, cause: str, core: int | None, pc: int | None
) -> None:
    log, events = crash(*texts, "ELF file SHA256: dc093ab15e33", "Rebooting...")
    assert kinds(events) == ["PanicSeen", "PanicEnded"]
    panic = log.boots[0].panic
    assert panic is not None
    assert (panic.kind, panic.cause, panic.core, panic.pc) == (kind, cause, core, pc)
    assert panic.elf_sha256 == "dc093ab15e33"
    assert panic.text.split()[0] in texts[0]


def test_a_debug_exception_is_announced_with_its_reason() -> None:
    log, events = crash("Guru Meditation Error: Core  1 panic'ed (Unhandled debug exception). ")
    assert events == []
    _, events = feed(lines("Debug exception reason: Stack canary watchpoint triggered (main) "), log=log)
    assert isinstance(events[0], PanicSeen)
    assert events[0].panic.text.endswith("Stack canary watchpoint triggered (main)")


WATCHDOG = (
    "E (5855) task_wdt: Task watchdog got triggered. The following tasks/users did not reset the watchdog in time:",
    "E (5855) task_wdt:  - IDLE0 (CPU 0)",
    "E (5855) task_wdt: Tasks currently running:",
    "E (5855) task_wdt: CPU 0: loopTask",
)
PRINT = "E (5855) task_wdt: Print CPU 0 (current core) backtrace"
BACKTRACE = "Backtrace: 0x4013d30e:0x3ffbac20 0x4013d383:0x3ffbac40"


def test_a_task_watchdog_that_only_complains() -> None:
    log, events = crash(*WATCHDOG, PRINT, "", BACKTRACE, "I (5900) app: going on")
    assert kinds(events) == ["TaskWatchdogSeen"]
    boot = log.boots[0]
    assert boot.panic is None
    assert boot.task_watchdog is not None
    assert (boot.task_watchdog.fatal, boot.task_watchdog.cause) == (False, "IDLE0 (CPU 0)")
    assert boot.task_watchdog.backtrace.startswith("0x4013d30e")
    assert kinds(feed(lines(*WATCHDOG), log=log)[1]) == ["TaskWatchdogSeen"]


@pytest.mark.parametrize(
    "rest",
    [
        ["E (5855) task_wdt: Aborting.", PRINT, BACKTRACE, "ELF file SHA256: dc093ab15", "Rebooting..."],
        ["E (5855) task_wdt: Aborting.", "abort() was called at PC 0x400d4314 on core 0", BACKTRACE, "Rebooting..."],
        ["abort() was called at PC 0x400d4314 on core 0", BACKTRACE, "Rebooting..."],
    ],
)
def test_a_task_watchdog_that_panics(rest: list[str]) -> None:
    log, events = crash(*WATCHDOG, *rest)
    assert kinds(events) == ["TaskWatchdogSeen", "PanicSeen", "PanicEnded"]
    first, second = events[0], events[1]
    assert isinstance(first, TaskWatchdogSeen)
    assert isinstance(second, PanicSeen)
    assert first.panic is second.panic is log.boots[0].panic
    assert second.panic.kind is PanicKind.TASK_WATCHDOG
    assert second.panic.backtrace


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("rst:0x8 (TG1WDT_SYS_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)", PanicKind.HARDWARE_WATCHDOG),
        ("rst:0xf (RTCWDT_BROWN_OUT_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)", PanicKind.BROWN_OUT),
    ],
)
def test_a_crash_that_only_the_rom_tells(line: str, kind: PanicKind) -> None:
    log, events = crash(line)
    assert kinds(events) == ["PanicSeen", "PanicEnded", "ResetSeen"]
    first, last = events[0], events[2]
    assert isinstance(first, PanicSeen)
    assert isinstance(last, ResetSeen)
    assert (first.panic.kind, first.panic.text) == (kind, line)
    assert first.boot is log.boots[0]
    assert last.boot is log.boots[1]


def test_a_reported_brown_out_is_not_reported_twice() -> None:
    _, events = crash(
        "Brownout detector was triggered", "", "rst:0xf (BROWNOUT_RST),boot:0x8 (SPI_FAST_FLASH_BOOT)", "entry 0x1"
    )
    assert kinds(events) == ["PanicSeen", "PanicEnded", "ResetSeen"]


def test_a_watchdog_reset_as_the_first_thing_seen_blames_nobody() -> None:
    log, events = feed(lines("rst:0x10 (RTCWDT_RTC_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)"))
    assert kinds(events) == ["ResetSeen"]
    assert log.boots[0].category is ResetCategory.WATCHDOG


def test_a_panic_on_a_console_that_was_joined_late() -> None:
    log, events = feed(lines("abort() was called at PC 0x400813b7 on core 0"))
    assert len(events) == 1
    assert isinstance(events[0], PanicSeen)
    assert events[0].boot is None
    _, events = feed(recorded("ota0-selected"), log=log)
    assert kinds(events)[:2] == ["PanicEnded", "ResetSeen"]


def test_words_of_a_panic_inside_an_application_log_are_none() -> None:
    _, events = crash("I (9) app: abort() was called at PC 0x1 once", "I (9) app: assert failed: no")
    assert events == []


def test_a_false_alarm_does_not_keep_the_parser_busy() -> None:
    log, events = crash("assert failed: says the application, and goes on")
    assert kinds(events) == ["PanicSeen"]
    _, events = feed(lines(*(["I (9) app: alive"] * 600)), log=log)
    assert kinds(events) == ["PanicEnded"]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["invalid header: 0xffffffff"], FaultKind.BLANK_FLASH),
        (["invalid header: 0x00000000"], FaultKind.INVALID_HEADER),
        (["flash read err, 1000", "ets_main.c 371 "], FaultKind.FLASH_READ),
        (["mode:QIO, clock div:1", "ets_loader.c 78"], FaultKind.BOOTLOADER_DAMAGED),
        (["entry 0x40080688", "E (9) boot_comm: mismatch chip ID, expected 0, found 2"], FaultKind.WRONG_CHIP),
        (["entry 0x40080688", "E (9) flash_parts: partition 0 invalid magic number 0x5ff"], FaultKind.PARTITION_TABLE),
        (["entry 0x40080688", "E (9) boot: load partition table error!"], FaultKind.PARTITION_TABLE),
        (["entry 0x40080688", f"E (9) boot: {NO_APP}"], FaultKind.NO_BOOTABLE_APP),
    ],
)
def test_faults_that_no_recorded_log_has(texts: list[str], kind: FaultKind) -> None:
    log, events = feed(lines("rst:0x10 (RTCWDT_RTC_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)", *texts * 80))
    assert Counter(kinds(events)) == {"ResetSeen": 1, "BootFaultSeen": 1}
    fault = log.boots[0].failure
    assert fault is not None
    assert fault.kind is kind
    assert fault.text in fault.cause
    assert not log.boots[0].app_started


def test_a_blank_board_joined_late_is_recognised() -> None:
    _, events = feed(lines("er: 0xffffffff", "invalid header: 0xffffffff", "invalid header: 0xffffffff"))
    assert kinds(events) == ["ResetSeen", "BootFaultSeen"]


def test_an_app_for_a_newer_chip_is_passed_over() -> None:
    refusal = "Image requires chip rev >= v3.0, but chip is v1.0"
    log, events = feed(
        lines(
            *IDF5_C6[:15],
            f"E (70) boot_comm: {refusal}",
            "E (71) boot: Factory app partition is not bootable",
            "E (72) boot: OTA app partition slot 1 is not bootable",
            *IDF5_C6[16:],
        )
    )
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"]
    assert log.boots[0].rejected == [
        RejectedApp("factory", 0x10000, refusal),
        RejectedApp("OTA app slot 1", None, ""),
    ]


def test_image_errors_of_a_running_app_are_no_boot_faults() -> None:
    _, events = crash(f"E (9) boot: {NO_APP}", "E (9) esp_image: Checksum failed. Calculated 0xf7 read 0xad")
    assert events == []


def restart(log: BootLog, time_s: float, reason: str = "0xc (SW_CPU_RESET)") -> list[BootEvent]:
    return log.feed(lines(f"rst:{reason},boot:0x13 (SPI_FAST_FLASH_BOOT)"), time_s)


def test_boot_loop() -> None:
    log = BootLog(loop_resets=3, loop_life_s=10.0)
    seen = [restart(log, time_s) for time_s in (0.0, 1.0, 2.0, 3.0, 4.0)]
    assert [any(isinstance(event, BootLoopSeen) for event in events) for events in seen] == [0, 0, 0, 1, 0]


def test_slow_planned_and_power_on_resets_are_no_loop() -> None:
    slow = BootLog()
    assert not any(isinstance(event, BootLoopSeen) for n in range(9) for event in restart(slow, 11.0 * n))
    cycled = BootLog()
    assert not any(
        isinstance(event, BootLoopSeen) for n in range(9) for event in restart(cycled, 1.0 * n, "0x1 (POWERON_RESET)")
    )
    planned = BootLog()
    for n in range(9):
        planned.planned_reset()
        assert kinds(restart(planned, 1.0 * n)) == ["ResetSeen"]


@pytest.mark.parametrize("held_in_reset", [False, True])
def test_a_line_cut_off_by_a_reset_is_not_read_together_with_the_banner(held_in_reset: bool) -> None:
    log = BootLog()
    log.feed(b"rst:0x10 (RTCWDT_RTC_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\ninvalid header: 0xffff", 0.0)
    if held_in_reset:
        log.cut_off()
    events = log.feed(b"ets Jul 29 2019 12:21:46\r\n\r\n", 1.0)
    assert kinds(events) == ([] if held_in_reset else ["BootFaultSeen"])


def test_a_week_of_boots_does_not_fill_the_memory() -> None:
    log = BootLog()
    for n in range(1500):
        restart(log, 60.0 * n)
    assert len(log.boots) == 1000
    assert log.boots[-1].number == 1500


def test_a_stream_without_line_ends_is_cut() -> None:
    log, events = feed(b"x" * 10_000, b"y" * 3000 + b"\n", recorded("ota0-selected"))
    assert kinds(events) == ["ResetSeen", "AppStarted", "BootComplete"]
    assert isinstance(events[1], AppStarted)
    assert isinstance(events[2], BootComplete)
    assert isinstance(feed(lines(ABORT, "Rebooting..."), log=log)[1][1], PanicEnded)
