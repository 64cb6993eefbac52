"""`hut flash`: firmware onto a board, and what became of it."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pexpect
import pytest
from cli_rig import (
    ONE_ERROR,
    PATIENCE_S,
    flock_gets,
    held_by_flock,
    hut,
    hut_on_a_terminal,
    read_until,
    running_hut,
)
from lab import Lab

from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.imageset import ImageSet

SLOT = "hut-01"


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with one virtual slot."""
    lab.write_slots(SLOT)
    return lab


def without(images: ImageSet, *names: str) -> ImageSet:
    """The images but some: in a board's flash, what is left to flash, which takes its time."""
    return replace(images, images=tuple(image for image in images.images if image.name not in names))


def session(lab: Lab) -> list[dict[str, object]]:
    (journal,) = lab.folder.glob("build/hut/*/session.jsonl")
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_flash_and_boot_leave_evidence(bench: Lab) -> None:
    bench.preload(SLOT, without(demo_firmware("esp32"), "bootloader", "otadata", "partition-table"))
    done = hut(bench, "flash", SLOT, "demo")
    assert done.returncode == 0, done.stderr
    evidence, result = done.stdout.splitlines()
    assert result.startswith("hut-01: recovery pytest-hut-demo demo-1.0 booted in ")
    assert "(POWERON_RESET, ELF " in result
    steps = done.stderr.splitlines()
    assert [step.split(" (")[0] for step in steps[:-1]] == [
        f"hut-01: writing {name}" for name in ("bootloader", "partition-table")
    ]
    assert "demo demo-1.0: wrote 28 KiB, verified" in steps[-1]

    job = bench.folder / evidence.removeprefix("evidence: ")
    assert [event["event"] for event in bench.events(SLOT)] == [
        "SlotLeased",
        "FlashPlanned",
        "BoardIdentified",
        "FlashFinished",
        "BoardReset",
        "Booted",
        "SlotReleased",
    ]
    (console,) = job.glob(f"{SLOT}/runner_hut-01_console_*_utc.log")
    assert b"demo ready" in console.read_bytes() or b"App version" in console.read_bytes()
    assert [event["event"] for event in session(bench)] == ["SessionStarted", "SessionFinished"]
    assert session(bench)[-1]["exit_code"] == 0


def test_what_is_on_the_board_is_not_written_again(bench: Lab) -> None:
    bench.preload(SLOT)
    toml = (bench.folder / "slots.toml").read_text()
    (bench.folder / "slots.toml").write_text(toml.replace("virtual = true", 'port = "/dev/serial/by-id/real"'))
    done = hut(bench, "flash", SLOT, "demo", "--virtual", "--evidence", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "already on the board, verified" in done.stderr
    assert done.stdout.startswith("evidence: elsewhere/HUT-")


def test_firmware_that_crashes_is_the_products_fault(bench: Lab) -> None:
    firmware = demo_firmware("esp32", script={"boot": [{"panic": "abort"}]})
    bench.preload(SLOT, firmware)
    done = hut(bench, "flash", SLOT, str(bench.save_firmware(firmware)))
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert "hut: error: the firmware crashed" in error and "abort()" in error
    assert session(bench)[-1] | {"utc": ""} == {
        "event": "SessionFinished",
        "slot": "",
        "utc": "",
        "exit_code": 1,
        "cause": "",
        "reason": error.removeprefix("hut: error: "),
    }


def test_another_firmware_booting_than_the_flashed_one_is_found_out(bench: Lab) -> None:
    in_flash = demo_firmware("esp32", ota_slot=0)
    bench.preload(SLOT, in_flash)
    done = hut(bench, "flash", SLOT, str(bench.save_firmware(without(in_flash, "otadata"))))
    assert done.returncode == 1
    assert "ota_0 demo-1.0" in done.stderr and "not the recovery demo-1.0" in done.stderr
    assert "already on the board" in done.stderr


def test_a_bench_that_fails_is_not_the_products_fault(bench: Lab) -> None:
    damaged = bench.folder / "damaged.bin"
    damaged.write_bytes(b"\xff" * 4096)
    with (bench.folder / "slots.toml").open("a") as file:
        file.write(
            f'[slots.hut-02]\nport = "/dev/serial/by-id/nothing"\nport_timeout_s = 0.1\n'
            f'lock_path = "{bench.lock("hut-02")}"\n'
        )
    firmware = str(bench.save_firmware(demo_firmware("esp32")))
    for slot_id, name, words in ((SLOT, str(damaged), "erased flash"), ("hut-02", firmware, "is not there")):
        done = hut(bench, "flash", slot_id, name)
        assert done.returncode == 3
        assert ONE_ERROR.fullmatch(done.stderr)
        assert words in done.stderr


def test_a_held_slot_is_waited_for_as_long_as_one_says(bench: Lab) -> None:
    bench.preload(SLOT)
    with held_by_flock(bench.lock(SLOT)) as holder:
        refused = hut(bench, "flash", SLOT, "demo", "--lock-timeout", "0")
        assert refused.returncode == 4
        assert f"pid {holder.pid}" in refused.stderr
        with running_hut(bench, "flash", SLOT, "demo") as waiter:
            read_until(waiter.stderr, b"waiting for")
            holder.communicate()
            out, err = waiter.communicate(timeout=PATIENCE_S)
            assert waiter.returncode == 0, err
            assert b"booted" in out


def test_interrupted_it_gives_the_slot_back(bench: Lab) -> None:
    bench.write_slots(SLOT, board="paced = true")
    bench.preload(SLOT, without(demo_firmware("esp32"), "recovery"))
    with running_hut(bench, "flash", SLOT, "demo") as process:
        read_until(process.stderr, b"writing recovery")
        process.send_signal(signal.SIGTERM)
        _out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert flock_gets(bench.lock(SLOT))
    assert err.endswith(b"\n") and b"Traceback" not in err
    assert err.splitlines()[-1].startswith(b"hut: error: interrupted (SIGTERM)")
    assert (session(bench)[-1]["cause"], session(bench)[-1]["exit_code"]) == ("interrupt", 130)


def test_on_a_terminal_a_bar_moves(bench: Lab) -> None:
    bench.write_slots(SLOT, board="paced = true")
    bench.preload(SLOT, without(demo_firmware("esp32"), "recovery"))
    terminal = hut_on_a_terminal(bench, "flash", SLOT, "demo")
    terminal.expect(r"writing recovery")
    terminal.expect(r"[1-9]\d?%")
    terminal.expect_exact("booted in")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
