"""Flashing with the real esptool on virtual boards: proofs, retries, and what fails says why."""

from __future__ import annotations

import pytest
from lab import HW_BOOT_001, Lab

from pytest_hut.firmware.demo import demo_firmware

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
