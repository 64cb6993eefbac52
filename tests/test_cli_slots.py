"""`hut slots`: what there is, for people and for programs."""

from __future__ import annotations

import json
import subprocess

import pexpect
import pytest
from cli_rig import HUT, held_by_flock, hut, hut_on_a_terminal, read_until, running_hut
from lab import Lab


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with a virtual slot, one whose port is there, one whose is not, and one far away."""
    device = lab.folder / "by-id" / "usb-board-if00"
    device.parent.mkdir()
    device.touch()
    lab.write_slots("hut-01")
    with (lab.folder / "slots.toml").open("a") as file:
        for slot_id, port in (
            ("hut-02", device),
            ("hut-03", "/dev/serial/by-id/usb-none"),
            ("hut-04", "rfc2217://127.0.0.1:9"),
        ):
            file.write(f'[slots.{slot_id}]\nport = "{port}"\nlock_path = "{lab.lock(slot_id)}"\n')
        file.write('chip = "esp32s3"\nrelay = { driver = "home-assistant", entity = "switch.hut_04_power" }\n')
        file.write('[home_assistant]\nurl = "http://127.0.0.1:9"\n')
    return lab


def test_json_says_everything(bench: Lab) -> None:
    done = hut(bench, "slots", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)
    assert listed["config"] == str(bench.folder / "slots.toml")
    slots = {slot["slot"]: slot for slot in listed["slots"]}
    assert {slot_id: slot["port_present"] for slot_id, slot in slots.items()} == {
        "hut-01": None,
        "hut-02": True,
        "hut-03": False,
        "hut-04": None,
    }
    assert slots["hut-04"] == {
        "slot": "hut-04",
        "chip": "esp32s3",
        "features": [],
        "virtual": False,
        "port": "rfc2217://127.0.0.1:9",
        "port_present": None,
        "relay": "switch.hut_04_power",
        "lock": str(bench.lock("hut-04")),
        "free": True,
        "held_by": None,
        "quarantine": None,
    }
    assert slots["hut-01"]["virtual"] and slots["hut-01"]["features"] == ["psram"]


def test_piped_it_is_aligned_text(bench: Lab) -> None:
    lines = hut(bench, "slots").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SLOT", "hut-01", "hut-02", "hut-03", "hut-04"]
    assert len({line.index(word) for line, word in zip(lines, ["CHIP", *["esp32"] * 4], strict=True)}) == 1
    assert lines[1].split() == ["hut-01", "free", "esp32", "psram", "-", "virtual"]
    assert lines[3].endswith("/dev/serial/by-id/usb-none (not there)")
    assert "switch.hut_04_power" in lines[4]
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_it_is_a_table(bench: Lab) -> None:
    terminal = hut_on_a_terminal(bench, "slots")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    shown = str(terminal.before)
    assert "\x1b[" in shown and "─" in shown
    for text in ("hut-01", "free", "switch.hut_04_power", "not there"):
        assert text in shown


def test_it_says_who_holds_a_slot(bench: Lab) -> None:
    with (
        held_by_flock(bench.lock("hut-01")) as script,
        running_hut(bench, "lock", "hut-02", "--", "sh", "-c", "echo up; exec cat") as locker,
    ):
        read_until(locker.stdout, b"up")
        slots = {slot["slot"]: slot for slot in json.loads(hut(bench, "slots", "--json").stdout)["slots"]}
        text = hut(bench, "slots").stdout
    assert [slot["free"] for slot in slots.values()] == [False, False, True, True]
    assert slots["hut-01"]["held_by"]["pid"] == script.pid
    holder = slots["hut-02"]["held_by"]
    assert (holder["pid"], holder["job"]) == (locker.pid, "hut lock sh")
    assert holder["since_utc"].endswith("Z")
    assert f"held by pid {locker.pid}" in text and "hut lock sh" in text


def test_a_config_in_the_environment_is_used(bench: Lab) -> None:
    elsewhere = bench.folder / "bench.toml"
    (bench.folder / "slots.toml").rename(elsewhere)
    done = subprocess.run(
        [*HUT, "slots", "--json"],
        cwd=bench.folder,
        env={**bench.environment, "HUT_CONFIG": str(elsewhere)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["config"] == str(elsewhere)
