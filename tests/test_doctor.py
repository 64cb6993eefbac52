"""`hut doctor`, check by check and whole."""

from __future__ import annotations

import grp
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from cli_rig import held_by_flock
from evidence_rig import commit_all, hut_here
from lab import Lab
from packaging.requirements import Requirement

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench, HomeAssistant, HomeAssistantRelay, Slot
from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.doctor import host, slots
from pytest_hut.virtual.client import VirtualBenchProcess, start_virtual_bench
from pytest_hut.virtual.slots import plug_in


@pytest.fixture(autouse=True)
def _in_a_laboratory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    monkeypatch.setenv("HOME", str(lab.home))
    monkeypatch.delenv("HUT_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def slot_on(port: Path, **more: object) -> Slot:
    return Slot.model_validate({"id": "hut-01", "port": str(port), **more})


def test_a_healthy_host_is_told_so(lab: Lab) -> None:
    lab.write_slots("hut-01", "hut-02")
    commit = commit_all(lab.folder)
    code, said = hut_here("doctor")
    assert code == 0, said
    lines = said.splitlines()
    assert all(line.startswith("ok  ") for line in lines)
    for topic in ("host", "python", "pytest-hut", "pytest", "pytest-xdist", "pyserial", "esptool", "filelock", "git"):
        assert sum(line.split()[1] == topic for line in lines) == 1, topic
    assert f"commit {commit}" in said
    assert f"{lab.lock('hut-01')}, free" in said
    assert os.uname().nodename in lines[0]


def test_json(lab: Lab) -> None:
    lab.write_slots("hut-01")
    with (lab.folder / "slots.toml").open("a") as file:
        file.write(f'[slots.hut-02]\nport = "/dev/serial/by-id/gone"\nlock_path = "{lab.lock("hut-02")}"\n')
    code, said = hut_here("doctor", "--json")
    told = json.loads(said)
    assert (code, told["ok"]) == (3, False)
    assert [finding["topic"] for finding in told["findings"] if not finding["ok"]] == ["port hut-02"]


@pytest.mark.parametrize(
    ("text", "word"), [(None, "there is no slots.toml"), ("[slots.hut-01]\nprot = 1\n", "unknown key")]
)
def test_without_a_bench_it_says_what_is_wrong_with_it(lab: Lab, text: str | None, word: str) -> None:
    if text is not None:
        (lab.folder / "slots.toml").write_text(text)
    code, said = hut_here("doctor")
    assert code == 3
    [line] = [line for line in said.splitlines() if line.startswith("!!")]
    assert word in line


def test_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**29, 2**29))
    finding = host.room_for("evidence", tmp_path / "not" / "there")
    assert not finding.ok
    assert "only 0.5 of 1024.0 GiB free" in finding.text and "remove old evidence" in finding.text


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in host.room_for("evidence", tmp_path / "file" / "x").text
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to" in host.room_for("evidence", tmp_path).text


def test_packages_that_are_missing_or_too_old() -> None:
    assert host._about_package(Requirement("pytest>=1")).ok
    old = host._about_package(Requirement("pytest>=999"))
    assert not old.ok and "pip install 'pytest>=999'" in old.text and metadata.version("pytest") in old.text
    missing = host._about_package(Requirement("no-such-package-of-anybody>=1"))
    assert not missing.ok and "is not installed" in missing.text


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = host.git_here(tmp_path)
    assert not finding.ok and "install git" in finding.text


def test_a_port_that_this_user_may_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "ttyUSB0"
    device.touch()
    assert slots.port(slot_on(device)).ok
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = slots.port(slot_on(device))
    assert not finding.ok and "sudo usermod -aG " in finding.text
    monkeypatch.setattr(grp, "getgrgid", lambda number: _Group("dialout", ["ci"]))
    monkeypatch.setattr(slots, "user_name", lambda: "ci")
    assert "log in again" in slots.port(slot_on(device)).text and "usermod" not in slots.port(slot_on(device)).text


class _Group:
    def __init__(self, name: str, members: list[str]) -> None:
        self.gr_name, self.gr_mem = name, members


def test_ports_that_are_not_there_or_not_to_be_seen(tmp_path: Path) -> None:
    gone = slots.port(slot_on(tmp_path / "gone"))
    assert not gone.ok and "plug the board in" in gone.text
    assert slots.port(Slot(id="hut-01", port="rfc2217://127.0.0.1:4000")).ok
    assert slots.port(Slot(id="hut-01", virtual=True)).ok


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    slot = slot_on(tmp_path / "port", lock_path=path)
    assert slots.lock(slot).text == f"{path}, free"
    with held_by_flock(path) as script:
        held = slots.lock(slot)
    assert held.ok and f"held by pid {script.pid}" in held.text
    path.unlink()
    path.symlink_to(tmp_path / "port")
    linked = slots.lock(slot)
    assert not linked.ok and "symbolic link" in linked.text


def test_devices_that_no_slot_has(tmp_path: Path) -> None:
    by_id = tmp_path / "by-id"
    assert "there is no" in slots.devices(None, by_id).text
    by_id.mkdir()
    (by_id / "usb-one").touch()
    (by_id / "usb-two").touch()
    bench = Bench(slots={"hut-01": slot_on(by_id / "usb-one")})
    assert slots.devices(bench, by_id).text == f"2 in {by_id}; no slot has usb-two"


# Relays and credentials, on a server that speaks the protocol of Home Assistant


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualBenchProcess]:
    folder = tmp_path_factory.mktemp("served")
    spec = VirtualBoardSpec(slot_id="hut-01", chip="esp32")
    with start_virtual_bench([spec], folder, rfc2217=False) as process:
        yield process


@pytest.fixture
def bench(served: VirtualBenchProcess, tmp_path: Path) -> Bench:
    """A bench with one slot that looks like a real one."""
    slot = Slot(id="hut-01", virtual=True, lock_path=tmp_path / "hut-01.lock")
    plugged = plug_in(Bench(slots={"hut-01": slot}), served.describe)
    return Bench(slots={"hut-01": plugged.slots["hut-01"].model_copy(update={"virtual": False})})


def _server(bench: Bench) -> HomeAssistant:
    relay = bench.slots["hut-01"].relay
    assert isinstance(relay, HomeAssistantRelay) and relay.server is not None
    return relay.server


def _with_server(bench: Bench, **changes: object) -> Bench:
    slot = bench.slots["hut-01"]
    relay = slot.relay.model_copy(update={"server": _server(bench).model_copy(update=changes)})
    return Bench(slots={"hut-01": slot.model_copy(update={"relay": relay})})


def _token(bench: Bench) -> str:
    path = _server(bench).credentials
    assert path is not None
    return path.read_text().partition("=")[2].strip()


def test_a_relay_that_can_be_asked(bench: Bench) -> None:
    [finding] = slots.credentials(bench)
    assert finding.ok and "is closed to others" in finding.text
    finding = slots.relay(bench.slots["hut-01"], bench)
    assert finding.ok and "switch.hut_01_power is on" in finding.text


def test_a_board_that_was_left_off(bench: Bench) -> None:
    from pytest_hut.power.open import relay_for

    slot = bench.slots["hut-01"]
    relay = relay_for(slot, bench, lambda event: None)
    try:
        assert relay.off().ok
        finding = slots.relay(slot, bench)
        assert not finding.ok and "is off, and nobody holds the slot" in finding.text
        with held_by_flock(slot.lock):
            assert slots.relay(slot, bench).ok
    finally:
        assert relay.on().ok
        relay.close()


def test_a_relay_that_cannot_be_asked(bench: Bench) -> None:
    away = _with_server(bench, url="http://127.0.0.1:9")
    finding = slots.relay(away.slots["hut-01"], away)
    assert not finding.ok and "cannot be reached" in finding.text
    slot = bench.slots["hut-01"]
    unknown = slot.model_copy(update={"relay": slot.relay.model_copy(update={"entity": "switch.nobody"})})
    assert not slots.relay(unknown, bench).ok
    assert slots.relay(Slot(id="hut-01", port="/dev/serial/by-id/x"), bench).ok


def test_credentials_that_others_could_read(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    file = folder / "runner.env"
    file.write_text(f"HOME_ASSISTANT_TOKEN={_token(bench)}\n")
    file.chmod(0o644)
    open_to_all = _with_server(bench, credentials=file)
    said = [*slots.credentials(open_to_all), slots.relay(open_to_all.slots["hut-01"], open_to_all)]
    assert [finding.ok for finding in said] == [False, False]
    assert f"chmod 0600 {file}" in said[0].text
    missing = _with_server(bench, credentials=folder / "none.env")
    said += slots.credentials(missing)
    assert not said[-1].ok and "cannot be read" in said[-1].text
    assert all(_token(bench) not in finding.text for finding in said)


def test_a_wrong_token_is_told_without_the_token(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    file = folder / "runner.env"
    file.write_text("HOME_ASSISTANT_TOKEN=wrong-secret\n")
    file.chmod(0o600)
    wrong = _with_server(bench, credentials=file)
    finding = slots.relay(wrong.slots["hut-01"], wrong)
    assert not finding.ok and "refuses the token" in finding.text
    assert "wrong-secret" not in finding.text


def test_the_example_of_a_bench_can_be_examined(lab: Lab) -> None:
    example = Path(__file__).parent.parent / "slots.example.toml"
    text = "".join(line for line in example.read_text().splitlines(keepends=True))
    (lab.folder / "slots.toml").write_text(text.replace("homeassistant.local:8123", "127.0.0.1:9"))
    assert "hut-90" in load_bench(lab.folder / "slots.toml").slots
    code, said = hut_here("doctor")
    assert code == 3
    topics = {line[4:].split("  ")[0].strip() for line in said.splitlines() if line.startswith("!!")}
    assert {"credentials", "port hut-01", "port hut-02", "relay hut-01", "relay hut-02"} <= topics
