"""`hut inventory`: devices with their USB ids, slots matched to them, boards asked where they are free."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_rig import held_by_flock
from evidence_rig import hut_here
from lab import Lab

from pytest_hut.bench.discovery import SerialDevice, discover
from pytest_hut.bench.models import Slot
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.recording.inventory import Inventory, inventory_text, slot_seen


@pytest.fixture(autouse=True)
def _in_a_laboratory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    monkeypatch.setenv("HOME", str(lab.home))
    for name in ("HUT_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


class Host:
    """The parts of /dev and /sys that are looked at."""

    def __init__(self, root: Path) -> None:
        self.by_id, self.dev, self.sys_tty, self.usb = root / "by-id", root / "dev", root / "tty", root / "usb"
        for folder in (self.by_id, self.dev, self.sys_tty, self.usb):
            folder.mkdir(parents=True)

    def plug(self, name: str, node: str, serial: str) -> Path:
        """Plug in a CP2102N as the kernel shows one."""
        port = self.usb / node
        interface = port / "1-1:1.0"
        tty = interface / node
        tty.mkdir(parents=True)
        facts = {"idVendor": "10c4", "idProduct": "ea60", "manufacturer": "Silicon Labs", "product": "CP2102N"}
        for key, text in {**facts, "serial": serial}.items():
            (port / key).write_text(text + "\n")
        (interface / "bInterfaceNumber").write_text("00\n")
        (self.usb / "drivers" / "cp210x").mkdir(parents=True, exist_ok=True)
        (interface / "driver").symlink_to(self.usb / "drivers" / "cp210x")
        (self.sys_tty / node).mkdir()
        (self.sys_tty / node / "device").symlink_to(tty)
        (self.dev / node).touch()
        (self.by_id / name).symlink_to(Path("..") / "dev" / node)
        return self.by_id / name

    def discover(self) -> list[SerialDevice]:
        """Look at it."""
        return discover(self.by_id, self.sys_tty)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with nothing plugged in."""
    return Host(tmp_path / "host")


def test_devices_with_what_usb_says(host: Host) -> None:
    assert host.discover() == []
    path = host.plug("usb-CP2102N_0001-if00-port0", "ttyUSB0", "00\x1b01")
    (host.by_id / "usb-gone").symlink_to("../dev/ttyUSB7")
    (host.by_id / "usb-strange").symlink_to("../dev")
    assert host.discover() == [
        SerialDevice(
            by_id=str(path),
            device=str(host.dev / "ttyUSB0"),
            vendor_id="10c4",
            product_id="ea60",
            manufacturer="Silicon Labs",
            product="CP2102N",
            serial="00?01",
            interface=0,
            driver="cp210x",
        ),
        SerialDevice(by_id=str(host.by_id / "usb-gone"), device=None),
        SerialDevice(by_id=str(host.by_id / "usb-strange"), device=str(host.dev)),
    ]


def test_no_such_folder(tmp_path: Path) -> None:
    assert discover(tmp_path / "none") == []


def test_slots_are_matched_by_name_or_by_device(host: Host, tmp_path: Path) -> None:
    one, two = host.plug("usb-one", "ttyUSB0", "1"), host.plug("usb-two", "ttyUSB1", "2")
    by_path = tmp_path / "by-path"
    by_path.symlink_to(host.dev / "ttyUSB1")
    devices = host.discover()
    slots = [
        Slot(id="hut-01", port=str(one)),
        Slot(id="hut-02", port=str(by_path)),
        Slot(id="hut-03", port="/dev/serial/by-id/none"),
        Slot(id="hut-04", port="rfc2217://127.0.0.1:4000"),
        Slot(id="hut-90", virtual=True),
    ]
    seen = [slot_seen(slot, devices, None) for slot in slots]
    assert [slot.by_id for slot in seen] == [str(one), str(two), None, None, None]
    assert [slot.port_present for slot in seen] == [True, True, False, None, None]

    (host.by_id / "usb-gone").symlink_to("../dev/ttyUSB7")
    host.plug("usb-spare", "ttyUSB3", "3")
    text = inventory_text(Inventory("2026", "h", "u", "slots.toml", str(host.by_id), host.discover(), seen))
    assert f"{host.by_id} shows 4:" in text
    assert f"  {one}\n    {host.dev}/ttyUSB0, USB 10c4:ea60, Silicon Labs, CP2102N, serial 1, interface 0" in text
    assert "slot: hut-01\n" in text and "slot: none has this port" in text
    assert "leads nowhere" in text
    assert f"{by_path} (the same device as {two})" in text
    assert "/dev/serial/by-id/none (not there)" in text


def test_without_anything_there_is_still_evidence(lab: Lab) -> None:
    code, said = hut_here("inventory", "--evidence", "proof")
    assert code == 0, said
    path = Path(said.splitlines()[-1].removeprefix("evidence: "))
    assert re.fullmatch(r"proof/HUT-\S+_none/runner_hil_topo_inventory_\d{8}_\d{6}_utc\.log", str(path))
    assert "there is no slots.toml" in path.read_text()
    assert said.startswith(path.read_text())


def test_boards_that_are_free_are_asked(lab: Lab) -> None:
    lab.write_slots("hut-01", "hut-02", board='paced = false\nmac = "de:ad:be:ef:00:01"')
    lab.preload("hut-01")
    with (lab.folder / "slots.toml").open("a") as file:
        file.write(f'[slots.hut-03]\nport = "/dev/serial/by-id/gone"\nlock_path = "{lab.lock("hut-03")}"\n')
    with held_by_flock(lab.lock("hut-02")) as script:
        code, said = hut_here("inventory", "--probe", "--json")
    assert code == 0, said
    told = json.loads(said[said.index("{") :])
    one, two, three = told["slots"]
    assert one["probed"] == {
        "chip": "esp32",
        "revision": "3.0",
        "mac": "de:ad:be:ef:00:01",
        "flash_bytes": 4 * 1024 * 1024,
    }
    assert two["probed"] is None and two["not_probed_because"] == "the slot is held"
    assert f"pid {script.pid}" in two["held_by"]
    assert three["not_probed_because"] == "its port is not there"

    evidence = Path(told["evidence"])
    text = evidence.read_text()
    assert "board: esp32 revision 3.0, MAC de:ad:be:ef:00:01, flash 4 MiB" in text
    assert f"held by pid {script.pid}" in text
    events = [event["event"] for event in lab.events("hut-01")]
    assert events == ["SlotLeased", "BoardIdentified", "BoardReset", "SlotReleased"], "it was left in its application"
    assert LockFile(lab.lock("hut-01")).holder() is None

    assert hut_here("report", "rebuild", evidence.parent)[0] == 0


def test_a_board_that_does_not_answer_is_told(lab: Lab) -> None:
    lab.write_slots("hut-01", board="paced = false\nfaults = { silent = true }")
    code, said = hut_here("inventory", "--probe")
    assert code == 0
    assert "board: not asked: " in said
    assert LockFile(lab.lock("hut-01")).holder() is None


def test_a_bad_bench_is_a_mistake(lab: Lab) -> None:
    (lab.folder / "slots.toml").write_text("[slots.hut-01]\nprot = 1\n")
    code, said = hut_here("inventory")
    assert (code, said.count("\n")) == (2, 1)
    assert not (lab.folder / "build").exists()
