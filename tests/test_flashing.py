"""Flashing with the real esptool on virtual boards: proofs, retries, and what fails says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_rig import hut
from lab import HW_BOOT_001, Lab

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.board.flash_memory import FlashMemory
from pytest_hut.board.flash_plan import plan_flash
from pytest_hut.board.flasher import PROVED_BY_ACKNOWLEDGEMENT, flash_images
from pytest_hut.board.progress import Silent
from pytest_hut.board.slot import banner_proves
from pytest_hut.contracts.report import FlashRecord
from pytest_hut.errors import FlashError
from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.imageset import FlashImage
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.link.tty import TtyLink
from pytest_hut.virtual.client import start_virtual_bench

FLASHES = "def test_it(flashed_firmware): pass"


@pytest.mark.parametrize("chip", ["esp32s3", "esp32c3", "esp32c6"])
def test_the_main_job_on_other_chips(lab: Lab, chip: str) -> None:
    lab.write_slots("hut-01", extra=f'chip = "{chip}"')

    session = lab.run(str(HW_BOOT_001))

    assert session.exit_code == 0, session.output
    [slot] = session.report.slots
    assert (slot.chip, slot.flashes[0].written) == (chip, True)


def test_only_what_differs_is_written(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    flash = bytearray(lab.flash_file("hut-01").read_bytes())
    flash[0x8000] ^= 0xFF
    lab.flash_file("hut-01").write_bytes(flash)
    lab.write_test(FLASHES)

    session = lab.run()

    assert session.exit_code == 0, session.output
    assert session.report.slots[0].flashes[0].bytes_written == 0xC00
    assert "writing partition-table" in session.output
    table = demo_firmware("esp32").at(0x8000)
    assert table is not None
    assert lab.flash_file("hut-01").read_bytes()[0x8000 : 0x8000 + 0xC00] == table.data


def test_a_lying_md5_costs_a_write_and_nothing_else(lab: Lab) -> None:
    lab.write_slots("hut-01", board="paced = false\nfaults = { md5_wrong_once = true }")
    lab.preload("hut-01")
    lab.write_test(FLASHES)

    session = lab.run()

    assert session.exit_code == 0, session.output
    [flash] = session.report.slots[0].flashes
    assert (flash.written, flash.attempts) == (True, 1)


def test_after_the_second_failure_the_power_is_cycled(lab: Lab) -> None:
    lab.write_slots("hut-01", board="paced = false\nfaults = { silent = true }")
    lab.write_test(FLASHES)

    session = lab.run()

    assert session.exit_code == 10, session.output
    kinds = [event["event"] for event in lab.events("hut-01")]
    assert [kind for kind in kinds if kind in ("FlashFailed", "PowerCycled")] == [
        "FlashFailed",
        "FlashFailed",
        "PowerCycled",
        "FlashFailed",
    ]
    [test] = session.report.tests
    assert test.kind == "infrastructure"
    assert "could not be flashed in 3 tries" in test.message
    assert "connecting to the ROM loader" in test.message
    assert "Traceback" not in session.output


def test_firmware_for_another_chip_is_refused_before_the_board_is_touched(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test(FLASHES)
    firmware = lab.save_firmware(demo_firmware("esp32c3"))
    (firmware / "manifest.json").write_text((firmware / "manifest.json").read_text().replace("ESP32", "ESP32-C3"))

    session = lab.run(f"--hut-firmware={firmware}")

    [test] = session.report.tests
    assert test.kind == "infrastructure"
    assert "esp32c3" in test.message and "esp32" in test.message
    assert not [event for event in lab.events("hut-01") if event["event"].startswith("Flash")]


def test_a_marker_names_the_firmware(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01", demo_firmware("esp32", version="other-2"))
    lab.save_firmware(demo_firmware("esp32", version="other-2"), "other")
    lab.write_test(
        "import pytest\n"
        "@pytest.mark.hut(firmware='other')\n"
        "def test_it(hut_slot, flashed_firmware):\n"
        "    assert flashed_firmware.version == 'other-2'\n"
        "    assert hut_slot.boot().app_version == 'other-2'\n"
    )

    assert lab.run().exit_code == 0


def test_a_slot_without_firmware_to_flash_says_what_to_give(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("import pytest\n@pytest.mark.hut(firmware='nowhere')\ndef test_it(flashed_firmware): pass\n")

    [test] = lab.run().report.tests

    assert test.kind == "infrastructure"
    assert "nowhere" in test.message


def test_a_recorded_log_is_played_where_the_slot_names_one(lab: Lab) -> None:
    (lab.folder / "recorded.log").write_bytes(b"I (600) main: from the recording\r\n")
    lab.write_slots("hut-01", board='paced = false\nrecorded_log = "recorded.log"')
    lab.preload("hut-01")
    lab.write_test(
        "def test_it(hut_slot):\n    hut_slot.reset()\n    hut_slot.console.expect('from the recording', timeout=5)\n"
    )

    session = lab.run()

    assert session.exit_code == 0, session.output


@pytest.fixture
def plugged_in(lab: Lab) -> Iterator[Lab]:
    """A laboratory whose slot hut-01 is a board that outlives the sessions, as a real one does."""
    lab.preload("hut-01")
    with start_virtual_bench([VirtualBoardSpec("hut-01", paced=False)], lab.home / ".local/state/hut/virtual") as bench:
        port = bench.describe["boards"]["hut-01"]["port"]
        lab.slots = ["hut-01"]
        (lab.folder / "slots.toml").write_text(f'[slots.hut-01]\nport = "{port}"\nlock_path = "{lab.lock("hut-01")}"\n')
        lab.save_firmware(demo_firmware("esp32"))
        lab.write_test(FLASHES)
        yield lab


def last_flash(lab: Lab, *arguments: str) -> FlashRecord:
    session = lab.run("--hut-firmware=firmware", *arguments)
    assert session.exit_code == 0, session.output
    return session.report.slots[0].flashes[-1]


def test_a_board_nobody_else_had_is_proved_by_its_banner(plugged_in: Lab) -> None:
    assert last_flash(plugged_in).proof == "MD5 computed by the chip"
    again = last_flash(plugged_in)

    assert (again.proof, again.written, again.bytes_sent) == ("ELF SHA-256 in the boot banner", False, 0)
    assert again.bytes_saved == again.image_bytes > 0
    assert last_flash(plugged_in, "--hut-flash=verify").proof == "MD5 computed by the chip"
    assert last_flash(plugged_in, "--hut-flash=never").written is False
    assert last_flash(plugged_in, "--hut-flash=always").bytes_written == again.image_bytes


def test_after_another_holder_of_the_lock_the_chip_is_asked(plugged_in: Lab) -> None:
    last_flash(plugged_in)
    with LockFile(plugged_in.lock("hut-01"), "another").acquire(5):
        pass

    assert last_flash(plugged_in).proof == "MD5 computed by the chip"


def test_a_wrong_memory_costs_a_boot_and_nothing_else(plugged_in: Lab) -> None:
    """What is remembered is another firmware than what is on the flash, and nothing tells of it."""
    last_flash(plugged_in)
    other = demo_firmware("esp32", version="other-2")
    with plugged_in.flash_file("hut-01").open("r+b") as flash:
        for image in other.images:
            flash.seek(image.offset)
            flash.write(image.data)

    flashed = last_flash(plugged_in)

    assert (flashed.written, flashed.proof) == (True, "MD5 computed by the chip")
    content = plugged_in.flash_file("hut-01").read_bytes()
    assert all(content[i.offset : i.end] == i.data for i in demo_firmware("esp32").images)


def test_never_refuses_what_the_banner_does_not_prove(plugged_in: Lab) -> None:
    plugged_in.save_firmware(demo_firmware("esp32", version="other-2"))

    session = plugged_in.run("--hut-firmware=firmware", "--hut-flash=never")

    [test] = session.report.tests
    assert test.kind == "infrastructure"
    assert "--hut-flash=never forbids" in test.message


def test_one_changed_byte_is_one_sector_on_the_wire(plugged_in: Lab) -> None:
    firmware = demo_firmware("esp32")
    last_flash(plugged_in)
    first = firmware.images[0]
    changed = bytearray(first.data)
    changed[5000] ^= 1
    with plugged_in.flash_file("hut-01").open("r+b") as flash:
        flash.seek(first.offset)
        flash.write(changed)

    flashed = last_flash(plugged_in, "--hut-flash=verify")

    assert flashed.bytes_written == 0x1000
    kinds = [event for event in plugged_in.events("hut-01") if event["event"] == "FlashPlanned"]
    assert kinds[-1]["bytes_to_write"] is None and kinds[-1]["mode"] == "verify"


def test_a_rate_that_the_line_does_not_carry_is_not_tried_again(lab: Lab) -> None:
    """At high rates this adapter garbles everything."""
    with start_virtual_bench([VirtualBoardSpec("hut-01", paced=False)], lab.folder / "state") as bench:
        link = GarblingLink(bench.describe["boards"]["hut-01"]["port"], 115200)
        link.open(5)
        memory = FlashMemory(path=lab.folder / "memory.json")
        plan = plan_flash([FlashImage("data", 0x10000, b"data" * 2000)], None)
        bauds = []
        try:
            for _ in range(5):
                try:
                    outcome = flash_images(link, "classic", "esp32", 921600, plan, memory, None, Silent())
                except FlashError as error:
                    bauds.append(str(error).split(" failed")[0])
                else:
                    bauds.append(str(outcome.baud))
        finally:
            link.close()

    assert bauds[0] == "starting esptool's stub at 921600 baud"
    assert bauds[2:] == ["changing to 460800 baud", "230400", "230400"]
    assert memory.best_baud(921600) == 230400


class GarblingLink(TtyLink):
    """A line that carries 230400 baud at most."""

    def write(self, data: bytes) -> None:
        super().write(data if self.baudrate <= 230400 else bytes(byte ^ 0x10 for byte in data))


@pytest.mark.parametrize("chip", ["esp32", "esp32s3", "esp32c3", "esp32c6"])
def test_a_chip_with_flash_encryption_is_refused_at_once_and_left_as_it_is(lab: Lab, chip: str) -> None:
    lab.write_slots("hut-01", extra=f'chip = "{chip}"', board="paced = false\nflash_encryption = true")

    done = hut(lab, "flash", "hut-01", "demo")

    assert done.returncode == 3
    assert "hut: error: connecting to the ROM loader failed: the chip's flash encryption is on" in done.stderr
    assert not lab.flash_file("hut-01").read_bytes().strip(b"\xff")
    assert [event["attempt"] for event in lab.events("hut-01") if event["event"] == "FlashFailed"] == [1]


@pytest.mark.parametrize("chip", ["esp32s3", "esp32c3", "esp32c6"])
def test_in_secure_download_mode_everything_is_written_and_the_proof_says_so(lab: Lab, chip: str) -> None:
    lab.write_slots("hut-01", extra=f'chip = "{chip}"', board="paced = false\nsecure_download = true")
    firmware = demo_firmware(chip)

    for _ in range(2):
        done = hut(lab, "flash", "hut-01", "demo")
        assert done.returncode == 0, done.stderr
        assert f"wrote {firmware.size // 1024} KiB" in done.stderr

    flash = lab.flash_file("hut-01").read_bytes()
    assert all(flash[image.offset : image.end] == image.data for image in firmware.images)
    first, second = (event for event in lab.events("hut-01") if event["event"] == "FlashFinished")
    assert first["bytes_written"] == second["bytes_written"] == firmware.size
    assert first["proof"] == PROVED_BY_ACKNOWLEDGEMENT and first["baud"] == 921600


def test_in_secure_download_mode_plain_images_onto_an_encrypted_flash_are_refused(lab: Lab) -> None:
    board = "paced = false\nsecure_download = true\nflash_encryption = true"
    lab.write_slots("hut-01", extra='chip = "esp32s3"', board=board)
    done = hut(lab, "flash", "hut-01", "demo")
    assert done.returncode == 3
    assert "flash encryption is on" in done.stderr.splitlines()[-1]
    assert not lab.flash_file("hut-01").read_bytes().strip(b"\xff")


def test_an_esp32_in_secure_download_mode_is_a_mistake_in_slots_toml(lab: Lab) -> None:
    lab.write_slots("hut-01", board="secure_download = true")
    done = hut(lab, "flash", "hut-01", "demo")
    assert done.returncode == 2
    assert "virtual_board.secure_download: the esp32 has no such mode" in done.stderr


AN_UPDATE = """
import pathlib, pytest
from pytest_hut.firmware.demo import demo_firmware

def update(path):
    with pathlib.Path(path).open("r+b") as flash:
        for image in demo_firmware("esp32", version="other-2").images:
            flash.seek(image.offset)
            flash.write(image.data)

def test_that_updates(hut_slot, flashed_firmware):
    hut_slot.boot()
    update({path!r})
    {restart}

def test_afterwards(hut_slot, flashed_firmware):
    assert flashed_firmware.flash.written
    assert hut_slot.boot().app_version == "demo-1.0"
"""


@pytest.mark.parametrize(
    "restart",
    [
        "hut_slot.reset(); assert hut_slot.console.expect_boot().app_version == 'other-2'",
        "hut_slot.reset(); hut_slot.console.expect('other-2')",
        "assert hut_slot.boot().app_version == 'other-2'",
    ],
    ids=["boot seen by the console", "only text expected", "boot seen by the slot"],
)
def test_a_firmware_that_was_replaced_in_the_session_is_not_said_to_be_there(lab: Lab, restart: str) -> None:
    """As an update over the air does it, whatever way the test looks at its restart."""
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(AN_UPDATE.format(path=str(lab.flash_file("hut-01")), restart=restart))

    session = lab.run()

    assert session.exit_code == 0, session.output


@pytest.mark.parametrize(
    ("printed", "proves"),
    [("7368253b8", True), ("7368253b8c55b815", True), ("7", False), ("", False), (None, False), ("7368253b9", False)],
)
def test_a_banner_that_a_bad_line_cut_short_proves_nothing(printed: str | None, proves: bool) -> None:
    assert banner_proves(printed, "7368253b8c55b815".ljust(64, "a")) is proves
    assert not banner_proves("0" * 16, "0" * 64)
