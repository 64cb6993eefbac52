"""The boot chain of a virtual chip, against what real chips printed for the same flash content."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.firmware.demo import DEMO_PARTITIONS, DEMO_SCRIPT, DemoApp, DemoBootloader, demo_firmware
from pytest_hut.firmware.descriptors import AppDescription
from pytest_hut.firmware.image import parse_image
from pytest_hut.firmware.partitions import Partition, build_otadata, build_partition_table, ota_entries
from pytest_hut.firmware.writer import write_image
from pytest_hut.virtual.boot import print_download_banner, run_boot
from pytest_hut.virtual.machine import ChipStopped, Machine, ResetCause

BOOTLOGS = Path(__file__).parent / "data" / "bootlogs"
FLASH_SIZE = 4 * 1024 * 1024
BOOTLOADER_OFFSET, TABLE_OFFSET, OTADATA_OFFSET = 0x1000, 0x8000, 0xD000
RECOVERY_OFFSET, OTA_0_OFFSET = 0x10000, 0x150000


class MemoryFlash:
    def __init__(self, size: int = FLASH_SIZE) -> None:
        self.size = size
        self.content = bytearray(b"\xff" * size)
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise ValueError("outside the flash")
        self.bytes_read += length
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        old = self.read(offset, len(data))
        self.content[offset : offset + len(data)] = bytes(a & b for a, b in zip(old, data, strict=True))

    def erase(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise ValueError("outside the flash")
        self.content[offset : offset + length] = b"\xff" * length

    def put(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data

    def flip(self, offset: int) -> None:
        self.content[offset] ^= 0x01


@dataclass
class Chip:
    """A chip in virtual time: UART bytes cost theirs, sleeping only advances the clock."""

    flash: MemoryFlash
    spec: VirtualBoardSpec
    inputs: list[bytes] = field(default_factory=list)
    """What `read` returns, one after the other; when they are used up, a wait for ever ends the run."""
    patience_s: float = 60.0
    """Uptime at which the run ends."""
    baud: int = 0
    printed: bytearray = field(default_factory=bytearray)
    bauds: set[int] = field(default_factory=set)
    now_s: float = 0.0

    def write(self, data: bytes) -> None:
        self.printed += data
        self.bauds.add(self.baud)
        self.sleep(len(data) * 10 / self.baud)

    def read(self, timeout: float | None) -> bytes:
        if self.inputs:
            return self.inputs.pop(0)
        if timeout is None:
            raise ChipStopped
        self.sleep(timeout)
        return b""

    def adopt_host_baud(self) -> None:
        raise AssertionError("no program of the boot chain does this")

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s > self.patience_s:
            raise ChipStopped

    def machine(self, cause: ResetCause, download: bool = False) -> Machine:
        self.now_s = 0.0
        return Machine(
            spec=self.spec,
            uart=self,
            flash=self.flash,
            mac=bytes(6),
            reset_cause=cause,
            download=download,
            sleep=self.sleep,
            uptime_s=lambda: self.now_s,
            take_fault=lambda name: False,
        )

    def start(self, cause: ResetCause = ResetCause.POWER_ON) -> ResetCause | None:
        """Run one boot; None when it would go on for ever."""
        try:
            return run_boot(self.machine(cause))
        except ChipStopped:
            return None

    def start_until(self, length: int) -> None:
        """Boot again and again until that many lines of ROM and bootloader are printed, or nothing more comes."""
        cause: ResetCause | None = ResetCause.POWER_ON
        while cause is not None and len(boot_lines(self.text)) < length:
            cause = self.start(cause)

    @property
    def text(self) -> str:
        return self.printed.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.split("\r\n")


def flash_with(**changes: Any) -> MemoryFlash:
    """The product's flash content as the demo generates it; changes are arguments of `demo_firmware`."""
    arguments = {"bootloader": DemoBootloader("v4.3.5-dirty", "20:59:08", min_chip_revision=(1, 0))} | changes
    flash = MemoryFlash()
    for image in demo_firmware("esp32", **arguments).images:
        flash.put(image.offset, image.data)
    return flash


def image_end(flash: MemoryFlash, offset: int) -> int:
    return offset + parse_image(bytes(flash.content[offset:])).size


# -- the corpus


def whole(**changes: Any) -> Callable[[], MemoryFlash]:
    return lambda: flash_with(**changes)


def blank() -> MemoryFlash:
    return MemoryFlash()


def corrupt_bootloader() -> MemoryFlash:
    flash = flash_with()
    flash.flip(BOOTLOADER_OFFSET + 0x5000)
    return flash


def corrupt_factory_outside_the_checksum() -> MemoryFlash:
    flash = flash_with()
    flash.flip(image_end(flash, RECOVERY_OFFSET) - 1)
    return flash


def corrupt_both_apps() -> MemoryFlash:
    flash = flash_with()
    flash.flip(RECOVERY_OFFSET + 0x80000)
    flash.flip(OTA_0_OFFSET + 0x80000)
    return flash


def truncated_both_apps() -> MemoryFlash:
    flash = flash_with()
    for start, behind in ((RECOVERY_OFFSET, OTA_0_OFFSET), (OTA_0_OFFSET, 0x3F0000)):
        cut = start + 0x100000
        flash.put(cut, b"\xff" * (behind - cut))
    return flash


def somebody_elses_table() -> MemoryFlash:
    flash = with_table(SOMEBODY_ELSES)()
    for partition in SOMEBODY_ELSES[3:]:
        flash.erase(partition.offset, 0x1000)
    return flash


def with_table(partitions: Iterable[Partition], damage_at: int | None = None) -> Callable[[], MemoryFlash]:
    def build() -> MemoryFlash:
        flash = flash_with()
        flash.put(TABLE_OFFSET, build_partition_table(list(partitions)))
        if damage_at is not None:
            flash.flip(TABLE_OFFSET + damage_at)
        return flash

    return build


FOR_EIGHT_MEGABYTES = (
    *DEMO_PARTITIONS[:2],
    Partition("recovery", 0, 0x00, RECOVERY_OFFSET, 0x140000),
    Partition("ota_0", 0, 0x10, OTA_0_OFFSET, 0x500000),
)
SOMEBODY_ELSES = (
    *DEMO_PARTITIONS[:3],
    Partition("factory", 0, 0x00, 0x20000, 0x100000),
    Partition("ota_0", 0, 0x10, 0x160000, 0x100000),
)
MD5_BYTE = len(DEMO_PARTITIONS) * 32 + 16
ASSERTS = {"psram": "required", "boot": [{"log": "I esp_app_main: Starting"}, {"panic": "assert"}]}
STAYS_UP = {"psram": "required"}


@dataclass(frozen=True)
class Case:
    flash: Callable[[], MemoryFlash]
    board: Mapping[str, Any] = field(default_factory=dict)


CORPUS = {
    "abort-bootloop": Case(whole(script=STAYS_UP), {"features": (), "flash_quad": False}),
    "bad-partition-md5": Case(with_table(DEMO_PARTITIONS, damage_at=MD5_BYTE)),
    "blank-flash": Case(blank),
    "chip-revision-too-old": Case(whole(), {"chip_revision": (0, 0)}),
    "corrupt-bootloader": Case(corrupt_bootloader),
    "corrupt-both-apps": Case(corrupt_both_apps),
    "corrupt-factory-falls-back-to-ota0": Case(corrupt_factory_outside_the_checksum),
    "ota0-selected": Case(whole(ota_slot=0)),
    "partition-exceeds-flash": Case(with_table(FOR_EIGHT_MEGABYTES)),
    "release-full": Case(whole(script=ASSERTS)),
    "truncated-both-apps": Case(truncated_both_apps),
    "watchdog-reset": Case(whole()),
    "wrong-partition-table": Case(somebody_elses_table),
}


def recorded(name: str) -> str:
    return (BOOTLOGS / f"{name}.log").read_bytes().decode()


def boot_lines(text: str) -> list[str]:
    """The lines of ROM and bootloader, in all boots of a log; what applications print is left out."""
    kept = []
    in_app = False
    for line in text.split("\r\n"):
        if line.startswith("ets "):
            in_app = False
        if not in_app:
            kept.append(line)
        if "Disabling RNG early entropy source" in line:
            in_app = True
    return kept[:-1] if kept and not kept[-1] else kept


def without_numbers(line: str) -> str:
    return re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{2,}h?\b|\d+", "#", re.sub(r"\( *\d+\)", "(#)", line))


def without_times(line: str) -> str:
    return re.sub(r"^(\x1b\[0;3\dm[IWE] )\(\d+\)", r"\1(#)", line)


def test_every_recorded_log_is_covered() -> None:
    assert {path.stem for path in BOOTLOGS.glob("*.log")} == {*CORPUS, "download-mode"}


@pytest.mark.parametrize("name", CORPUS)
def test_rom_and_bootloader_print_what_was_recorded(name: str) -> None:
    expected = boot_lines(recorded(name))
    chip = Chip(CORPUS[name].flash(), VirtualBoardSpec("hut-01", **CORPUS[name].board))
    chip.start_until(len(expected))
    printed = boot_lines(chip.text)[: len(expected)]
    assert [without_numbers(line) for line in printed] == [without_numbers(line) for line in expected]
    assert len(expected) > 3


def test_the_first_boot_of_the_release_agrees_to_the_digit() -> None:
    """The demo's factory app has the product's segment sizes, so that only the times may differ."""
    expected = [without_times(line) for line in boot_lines(recorded("release-full"))[:36]]
    chip = Chip(flash_with(), VirtualBoardSpec("hut-01", strapping=0x12))
    chip.start()
    assert [without_times(line) for line in boot_lines(chip.text)][:36] == expected
    assert "Disabling RNG" in expected[-1]


def test_start_up_lines_of_the_release_agree_up_to_numbers_and_identity() -> None:
    """Up to the first line of the product itself."""
    lines = recorded("release-full").split("\r\n")
    first_own = next(i for i, line in enumerate(lines) if "esp_app_main" in line)
    chip = Chip(flash_with(script=STAYS_UP, recovery=DemoApp(idf_version="v4.3.5-dirty")), VirtualBoardSpec("hut-01"))
    chip.start()
    same = [line for line in map(without_numbers, lines[:first_own]) if "Project name" not in line]
    printed = [line for line in map(without_numbers, chip.lines[:first_own]) if "Project name" not in line]
    replaced = ("App version", "Compile time", "SHA#")
    for expected, line in zip(same, printed, strict=True):
        label = next((label for label in replaced if label in expected), None)
        assert label in line if label else line == expected


def test_a_board_without_psram_aborts_as_recorded_again_and_again() -> None:
    expected = recorded("abort-bootloop").split("\r\n")
    recovery = DemoApp(idf_version="v4.3.5-dirty")
    flash = flash_with(script=STAYS_UP, recovery=recovery)
    chip = Chip(flash, VirtualBoardSpec("hut-01", features=(), flash_quad=False))
    cause: ResetCause | None = ResetCause.POWER_ON
    for _ in range(3):
        cause = chip.start(cause)
        assert cause is ResetCause.SOFTWARE_CPU
    comparable = [line for line in map(without_numbers, expected[:-1]) if not line.startswith("Backtrace")]
    printed = [line for line in map(without_numbers, chip.lines) if not line.startswith("Backtrace")]
    assert printed[: len(comparable)] == comparable
    assert any(line.startswith("Backtrace:0x4") for line in chip.lines)


# -- ROM


def test_download_mode_with_the_recorded_strapping_does_not_say_that_it_waits() -> None:
    chip = Chip(blank(), VirtualBoardSpec("hut-01", strapping=0xF))
    print_download_banner(chip.machine(ResetCause.POWER_ON, download=True))
    assert chip.text == recorded("download-mode")


@pytest.mark.parametrize(
    ("chip_name", "boot"),
    [
        ("esp32", "boot:0x3 (DOWNLOAD_BOOT(UART0/UART1/SDIO_REI_REO_V2))"),
        ("esp32s3", "boot:0x0 (DOWNLOAD(USB/UART0))"),
        ("esp32c3", "boot:0x4 (DOWNLOAD(USB/UART0/1))"),
        ("esp32c6", "boot:0x4 (DOWNLOAD(USB/UART0/SDIO_FEI_FEO))"),
    ],
)
def test_download_mode_of_a_devkit(chip_name: str, boot: str) -> None:
    chip = Chip(blank(), VirtualBoardSpec("hut-01", chip=chip_name))
    print_download_banner(chip.machine(ResetCause.POWER_ON, download=True))
    assert chip.lines[-3].endswith(boot)
    assert chip.lines[-2:] == ["waiting for download", ""]


@pytest.mark.parametrize(
    ("chip_name", "banner", "software_reset"),
    [
        ("esp32", "ets Jul 29 2019 12:21:46", "rst:0xc (SW_CPU_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)"),
        ("esp32s3", "ESP-ROM:esp32s3-20210327", "rst:0xc (RTC_SW_CPU_RST),boot:0x8 (SPI_FAST_FLASH_BOOT)"),
        ("esp32c3", "ESP-ROM:esp32c3-api1-20210207", "rst:0xc (RTC_SW_CPU_RST),boot:0xc (SPI_FAST_FLASH_BOOT)"),
        ("esp32c6", "ESP-ROM:esp32c6-20220919", "rst:0xc (SW_CPU),boot:0xc (SPI_FAST_FLASH_BOOT)"),
    ],
)
def test_every_chip_boots_its_demo_to_the_ready_line(chip_name: str, banner: str, software_reset: str) -> None:
    flash = MemoryFlash()
    for image in demo_firmware(chip_name).images:
        flash.put(image.offset, image.data)
    chip = Chip(flash, VirtualBoardSpec("hut-01", chip=chip_name), inputs=[b"restart\r\n"])
    assert chip.start() is ResetCause.SOFTWARE_CPU
    assert chip.lines[0] == banner
    assert "esp_app_main: demo ready" in chip.text
    assert 0.6 < chip.now_s < 1.2
    chip.start(ResetCause.SOFTWARE_CPU)
    assert software_reset in chip.lines


def test_newer_bootloaders_and_applications_use_their_own_words() -> None:
    flash = MemoryFlash()
    for image in demo_firmware(
        "esp32s3", recovery=DemoApp(idf_version="v5.3", elf_sha256="0123456789abcdef" * 4)
    ).images:
        flash.put(image.offset, image.data)
    chip = Chip(flash, VirtualBoardSpec("hut-01", chip="esp32s3", console_baud=921600))
    chip.start()
    plain = [re.sub(r"\x1b\[[0-9;]*m|\(\d+\) ", "", line) for line in chip.lines]
    for line in (
        "load:0x3fce2810,len:0x178c",
        "I boot: ESP-IDF v5.1.4 2nd stage bootloader",
        "I boot: compile time Jan  5 2026 12:30:00",
        "I boot: Multicore bootloader",
        "I boot.esp32s3: Boot SPI Speed : 80MHz",
        "I cpu_start: Multicore app",
        "I app_init: ELF file SHA256:  012345678...",
        "I efuse_init: Chip rev:         v0.2",
        "I main_task: Calling app_main()",
    ):
        assert line in plain
    assert chip.bauds == {115200, 921600}


@pytest.mark.parametrize(
    ("chip_name", "cause"), [("esp32", ResetCause.RTC_WATCHDOG), ("esp32s3", ResetCause.TASK_WATCHDOG)]
)
def test_a_blank_flash_ends_in_a_watchdog_reset_within_two_seconds(chip_name: str, cause: ResetCause) -> None:
    chip = Chip(blank(), VirtualBoardSpec("hut-01", chip=chip_name))
    assert chip.start() is cause
    assert chip.now_s < 2
    assert chip.lines.count("invalid header: 0xffffffff") >= 2
    chip.start(cause)
    resets = [line.split(",")[0] for line in chip.lines if line.startswith("rst:")]
    assert resets[1] in ("rst:0x10 (RTCWDT_RTC_RESET)", "rst:0x7 (TG0WDT_SYS_RST)")


def test_newer_roms_tell_of_a_wrong_hash_and_a_wrong_chip() -> None:
    flash = MemoryFlash()
    for image in demo_firmware("esp32s3").images:
        flash.put(image.offset, image.data)
    flash.flip(image_end(flash, 0) - 1)
    chip = Chip(flash, VirtualBoardSpec("hut-01", chip="esp32s3"))
    chip.start()
    assert "SHA-256 comparison failed:" in chip.lines
    assert "Attempting to boot anyway..." in chip.lines
    assert "demo ready" in chip.text
    other = Chip(flash, VirtualBoardSpec("hut-01", chip="esp32c3"))
    assert other.start() is ResetCause.TASK_WATCHDOG
    assert "Invalid chip id. Expected 5 read 9. Bootloader for wrong chip?" in other.lines


# -- bootloader


def test_every_byte_of_a_good_image_is_read_once() -> None:
    flash = flash_with()
    Chip(flash, VirtualBoardSpec("hut-01")).start()
    assert flash.bytes_read < image_end(flash, RECOVERY_OFFSET) - RECOVERY_OFFSET + 100_000


def test_without_a_factory_app_the_first_slot_is_tried_and_recorded() -> None:
    flash = flash_with()
    flash.put(TABLE_OFFSET, build_partition_table([p for p in DEMO_PARTITIONS if p.label != "recovery"]))
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert "boot: No factory image, trying OTA 0" in chip.text
    assert "boot: Set actual ota_seq=1 in otadata[0]" in chip.text
    entry = ota_entries(bytes(flash.content[OTADATA_OFFSET : OTADATA_OFFSET + 0x2000]))[0]
    assert entry.valid
    assert entry.sequence == 1


def test_a_damaged_otadata_falls_back_to_the_factory_app() -> None:
    flash = flash_with(ota_slot=0)
    flash.flip(OTADATA_OFFSET + 28)
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert "E (" in chip.text
    assert "boot: ota data partition invalid, falling back to factory" in chip.text
    assert "Loaded app from partition at offset 0x10000" in chip.text


def test_a_corrupt_selected_slot_falls_back_to_the_factory_app() -> None:
    flash = flash_with(ota_slot=0)
    flash.flip(OTA_0_OFFSET + 0x80000)
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert "boot: OTA app partition slot 0 is not bootable" in chip.text
    assert "Loaded app from partition at offset 0x10000" in chip.text


def test_a_rejected_slot_leaves_the_factory_app() -> None:
    flash = flash_with()
    flash.put(OTADATA_OFFSET, build_otadata(0)[:24] + b"\x03\0\0\0" + build_otadata(0)[28:])
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert "boot: Defaulting to factory image" in chip.text


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (12, 9, "boot_comm: mismatch chip ID, expected 0, found 9"),
        (1, 17, "esp_image: image at 0x10000 segment count 17 exceeds max 16"),
        (15, 0x90, "boot_comm: Image requires chip rev >= v4.0, but chip is v3.0"),
        (0x19, 1, "doesn't match data 0x00010020"),
    ],
)
def test_headers_the_bootloader_refuses(place: int, value: int, reason: str) -> None:
    flash = flash_with()
    flash.put(RECOVERY_OFFSET + place, bytes([value, 1] if place == 15 else [value]))
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert reason in chip.text
    assert "boot: Factory app partition is not bootable" in chip.text


def test_an_image_larger_than_its_partition_is_refused() -> None:
    flash = flash_with()
    small = [Partition("recovery", 0, 0, RECOVERY_OFFSET, 0x100000), *DEMO_PARTITIONS[4:]]
    flash.put(TABLE_OFFSET, build_partition_table(small))
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    chip.start()
    assert "esp_image: Image length 1302848 doesn't fit in partition length 1048576" in chip.text


def test_a_flash_chip_smaller_than_the_images_think_is_survived() -> None:
    flash = flash_with()
    flash.size = 2 * 1024 * 1024
    flash.flip(RECOVERY_OFFSET + 0x80000)
    chip = Chip(flash, VirtualBoardSpec("hut-01", flash_size=flash.size))
    assert chip.start() is ResetCause.SOFTWARE
    assert "No bootable app partitions" in chip.text


SMALL_APP = write_image(
    [(0x3F400020, bytes(64)), (0x3FFBDB60, bytes(32))],
    "esp32",
    0x40080000,
    app=AppDescription("v", "p", "t", "d", "v4.3", "11" * 32),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flash_content_makes_the_boot_chain_fail(data: st.DataObject) -> None:
    flash = MemoryFlash(0x20000)
    flash.put(BOOTLOADER_OFFSET, next(i.data for i in demo_firmware().images if i.name == "bootloader"))
    flash.put(TABLE_OFFSET, build_partition_table([DEMO_PARTITIONS[1], Partition("app", 0, 0, 0x10000, 0x10000)]))
    flash.put(RECOVERY_OFFSET, SMALL_APP)
    area = data.draw(st.sampled_from([BOOTLOADER_OFFSET, TABLE_OFFSET, OTADATA_OFFSET, RECOVERY_OFFSET]))
    for _ in range(data.draw(st.integers(0, 3))):
        flash.content[area + data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    cause = Chip(flash, VirtualBoardSpec("hut-01", flash_size=flash.size)).start()
    assert cause in (None, ResetCause.SOFTWARE, ResetCause.RTC_WATCHDOG)


# -- application


def run_app(script: Mapping[str, Any] | None = None, *commands: str, **board: Any) -> tuple[Chip, ResetCause | None]:
    flash = flash_with(script=script)
    chip = Chip(flash, VirtualBoardSpec("hut-01", **board), inputs=[f"{command}\r\n".encode() for command in commands])
    return chip, chip.start()


def test_the_demo_answers_commands() -> None:
    chip, cause = run_app(None, "ping", "version", "echo  hello there ", "uptime", "nonsense 1")
    assert cause is None
    after = chip.text.split("esp_app_main: demo ready")[1]
    assert "\r\npong\r\n" in after
    assert "\r\npytest-hut-demo demo-1.0 ELF " in after
    assert "\r\nhello there\r\n" in after
    assert re.search(r"\r\nup \d+ ms\r\n", after)
    assert "\r\nUnrecognized command: nonsense 1\r\n" in after


def test_a_command_may_arrive_in_pieces_and_several_at_once() -> None:
    chip = Chip(flash_with(), VirtualBoardSpec("hut-01"), inputs=[b"pi", b"ng\rpi", b"ng\nping\r\n\r\n"])
    chip.start()
    assert chip.text.count("pong\r\n") == 3


def test_an_endless_line_is_cut() -> None:
    chip = Chip(flash_with(), VirtualBoardSpec("hut-01"), inputs=[b"x" * 9000] * 9 + [b"\nping\n"])
    chip.start()
    assert chip.text.endswith("pong\r\n")
    assert len(chip.text.split("demo ready")[1]) < 2000


def test_the_prompt_follows_the_boot_and_every_command() -> None:
    chip, _ = run_app({"prompt": "hut> ", "boot": ["up"], "commands": {"a": ["b"]}}, "a", "a")
    assert chip.text.endswith("up\r\nhut> b\r\nhut> b\r\nhut> ")


def test_timers_fire_once_in_order_while_commands_are_answered() -> None:
    script = {
        "timers": [
            {"after_s": 3, "do": [{"restart": True}]},
            {"after_s": 1.5, "do": ["tick {uptime_ms}"]},
        ],
        "commands": {"a": ["b"]},
    }
    chip, cause = run_app(script, "a")
    assert cause is ResetCause.SOFTWARE_CPU
    tail = chip.text.splitlines()[-2:]
    assert tail[0] == "b"
    tick_ms = int(tail[1].removeprefix("tick "))
    assert abs(chip.now_s * 1000 - tick_ms - 1500) < 50


def test_a_flood_has_numbered_lines_and_as_many_bytes_as_asked() -> None:
    chip, _ = run_app(None, "flood 100000")
    lines = re.findall(r"flood (\d{10}) abcdefghijklm\r\n", chip.text)
    assert [int(number) for number in lines] == list(range(3125))


def test_a_hang_is_silent_for_ever() -> None:
    chip, cause = run_app(None, "hang", "ping")
    assert cause is None
    assert "pong" not in chip.text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("panic", "abort() was called at PC 0x"),
        ("panic assert", "assert failed: app_main main.c:42"),
        ("panic guru", "Guru Meditation Error: Core  0 panic'ed (StoreProhibited). Exception was unhandled."),
        ("panic load", "Guru Meditation Error: Core  0 panic'ed (LoadProhibited). Exception was unhandled."),
        ("panic illegal", "Guru Meditation Error: Core  0 panic'ed (IllegalInstruction). Exception was unhandled."),
        ("panic stack", "Stack smashing protect failure!\r\n\r\nabort() was called"),
        ("panic task_wdt", "task_wdt: Task watchdog got triggered."),
        ("panic int_wdt", "Guru Meditation Error: Core  0 panic'ed (Interrupt wdt timeout on CPU0)\r\n"),
    ],
)
def test_panics_end_as_esp_idf_ends_them(command: str, words: str) -> None:
    chip, cause = run_app(None, command)
    assert cause is ResetCause.SOFTWARE_CPU
    end = chip.text.split("demo ready")[1]
    assert words in end
    assert ("Core  0 register dump:" in end) == ("Guru" in words)
    elf = re.search(r"Backtrace:0x[0-9a-f]+:0x[^\r]*\r\n\r\n\r\nELF file SHA256: ([0-9a-f]{16})\r\n\r\nReboot", end)
    assert elf is not None
    assert f"ELF file SHA256:  {elf[1]}..." in chip.text
    assert end.endswith("\r\nRebooting...\r\n")


def test_the_register_dump_has_the_recorded_form() -> None:
    log = recorded("release-full")
    dump = re.search(r"Core  0 register dump:\r\n(.*?)\r\n\r\n", log, re.DOTALL)
    chip, _ = run_app(None, "panic guru")
    mine = re.search(r"Core  0 register dump:\r\n(.*?)\r\n\r\n", chip.text, re.DOTALL)
    assert dump is not None
    assert mine is not None
    assert re.sub("0x[0-9a-f]+", "#", mine[1]) == re.sub("0x[0-9a-f]+", "#", dump[1])


def test_a_riscv_chip_panics_in_its_own_words() -> None:
    flash = MemoryFlash()
    for image in demo_firmware("esp32c3").images:
        flash.put(image.offset, image.data)
    chip = Chip(flash, VirtualBoardSpec("hut-01", chip="esp32c3"), inputs=[b"panic guru\n"])
    assert chip.start() is ResetCause.SOFTWARE_CPU
    assert "panic'ed (Store access fault). Exception was unhandled." in chip.text
    assert "MEPC    : 0x" in chip.text
    assert "Stack memory:" in chip.text


def test_a_hardware_watchdog_says_nothing_but_the_rom_knows() -> None:
    chip, cause = run_app(None, "panic hw_wdt")
    assert cause is ResetCause.INTERRUPT_WATCHDOG
    assert chip.text.endswith("demo ready\x1b[0m\r\n")
    chip.start(cause)
    assert "rst:0x8 (TG1WDT_SYS_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)" in chip.lines
    assert "esp_app_main: Reset reason is: 5" in chip.text


def test_optional_psram_is_done_without() -> None:
    chip, _ = run_app(None, features=())
    assert "psram: PSRAM ID read error" in chip.text
    assert "demo ready" in chip.text
    assert "psram" not in run_app({"boot": ["x"]}, features=())[0].text


def test_an_application_without_script_starts_and_stays_quiet() -> None:
    flash = flash_with()
    flash.put(RECOVERY_OFFSET, SMALL_APP)
    chip = Chip(flash, VirtualBoardSpec("hut-01"), inputs=[b"ping\n"])
    assert chip.start() is None
    assert chip.text.endswith("I (0) cpu_start: Starting scheduler on APP CPU.\x1b[0m\r\n")
    assert "cpu_start: Project name:     p" in chip.text


def test_a_script_that_cannot_be_read_is_complained_of() -> None:
    broken = b"hut-console-json\x05\0\0\0{bad}"
    description = AppDescription("v", "p", "t", "d", "v4.3", "11" * 32)
    flash = flash_with()
    flash.put(RECOVERY_OFFSET, write_image([(0x3F400020, broken)], "esp32", 0, app=description))
    chip = Chip(flash, VirtualBoardSpec("hut-01"))
    assert chip.start() is None
    assert "E (" in chip.text
    assert "console_script: The console script is no JSON" in chip.text


def test_a_larger_flash_than_the_image_was_built_for_is_mentioned() -> None:
    chip, _ = run_app(None, flash_size=8 * 1024 * 1024)
    assert "W (" in chip.text
    assert "spi_flash: Detected size(8192k) larger than the size in the binary image header(4096k)." in chip.text


# -- recordings


def replay(recording: bytes, tmp_path: Path, patience_s: float = 60.0) -> tuple[Chip, ResetCause | None]:
    path = tmp_path / "recorded.log"
    path.write_bytes(recording)
    chip = Chip(flash_with(), VirtualBoardSpec("hut-01", recorded_log=path), patience_s=patience_s)
    return chip, chip.start()


def test_a_recorded_boot_loop_is_played_from_its_application_and_loops(tmp_path: Path) -> None:
    log = (BOOTLOGS / "abort-bootloop.log").read_bytes()
    chip, cause = replay(log, tmp_path)
    assert cause is ResetCause.SOFTWARE_CPU
    first_app = log.index(b"psram: This chip") - len("\x1b[0;32mI (466) ")
    last_banner = log.rindex(b"ets Jul 29")
    assert chip.printed.endswith(log[first_app:last_banner])
    assert chip.printed.count(b"Rebooting...") == 2


def test_a_recording_keeps_its_pace(tmp_path: Path) -> None:
    app = b"I (1000) a: one\r\nI (0) b: other core\r\nI (3000) a: two\r\nplain\r\n"
    chip, cause = replay(app, tmp_path)
    assert cause is None
    assert bytes(chip.printed).endswith(app)
    assert chip.now_s > 2.5


def test_a_whole_recorded_release_is_played_to_its_last_crash(tmp_path: Path) -> None:
    log = (BOOTLOGS / "release-full.log").read_bytes()
    chip, cause = replay(log, tmp_path, patience_s=600)
    assert cause is ResetCause.SOFTWARE_CPU
    assert chip.text.count("Guru Meditation") == 1
    assert chip.printed.endswith(log[-2000:])


def test_a_recording_that_ends_quietly_stays_up(tmp_path: Path) -> None:
    chip, cause = replay((BOOTLOGS / "ota0-selected.log").read_bytes(), tmp_path)
    assert cause is None
    assert "Value not found for key airplay_name" in chip.text


def test_the_default_script_is_the_documented_one() -> None:
    assert {"ping", "version", "uptime", "panic", "hang", "restart", "flood"} <= set(DEMO_SCRIPT["commands"])
