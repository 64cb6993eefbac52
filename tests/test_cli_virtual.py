"""`hut virtual`: boards for any other tool."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import requests
import serial
from cli_rig import ONE_ERROR, PATIENCE_S, hut, read_until, running_hut
from lab import Lab

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench, HomeAssistantRelay
from pytest_hut.firmware.demo import demo_firmware


def free_tcp_port() -> int:
    """A port that was free a moment ago, and whose neighbour was, too."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def relay(bench: Bench, method: str, path: str, entity: str | None = None) -> Any:
    """Ask the Home Assistant of a printed bench for something."""
    assert bench.home_assistant is not None and bench.home_assistant.credentials is not None
    token = bench.home_assistant.credentials.read_text().partition("=")[2].strip()
    answer = requests.request(
        method,
        f"{bench.home_assistant.url}/api/{path}",
        headers={"Authorization": f"Bearer {token}"},
        json={"entity_id": entity} if entity else None,
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 200
    return answer.json()


def test_what_it_prints_is_a_slots_toml(lab: Lab) -> None:
    first = free_tcp_port()
    with running_hut(lab, "virtual", "--rfc2217-port", str(first), "--firmware", "demo") as server:
        text = read_until(server.stdout, b'hut_02_power" }\n').decode()
        printed = lab.folder / "printed.toml"
        printed.write_text(text)
        bench = load_bench(printed)
        assert list(bench.slots) == ["hut-01", "hut-02"]
        assert bench.home_assistant is not None and bench.home_assistant.credentials is not None
        token = bench.home_assistant.credentials.read_text().partition("=")[2].strip()
        assert token not in text
        assert stat.S_IMODE(bench.home_assistant.credentials.stat().st_mode) == 0o600
        for number, slot in enumerate(bench.slots.values()):
            assert slot.port is not None and Path(slot.port).exists()
            assert isinstance(slot.relay, HomeAssistantRelay)
            url = f"rfc2217://127.0.0.1:{first + number}"
            assert f'# port = "{url}"' in text
            with serial.serial_for_url(url, 115200) as port:
                assert port.is_open
            assert relay(bench, "GET", f"states/{slot.relay.entity}")["state"] == "on"
        server.send_signal(signal.SIGINT)
        _out, err = server.communicate(timeout=PATIENCE_S)
        assert (server.returncode, err) == (0, b"")
    assert not any(Path(slot.port or "").exists() for slot in bench.slots.values())
    assert not bench.home_assistant.credentials.parent.parent.exists()


def test_json_and_the_virtual_slots_of_slots_toml(lab: Lab) -> None:
    lab.write_slots("hut-05", "hut-06")
    with (lab.folder / "slots.toml").open("a") as file:
        file.write('[slots.hut-07]\nport = "/dev/serial/by-id/real"\n')
    with running_hut(lab, "virtual", "--json", "--chip", "esp32c3", "--state", "mine") as server:
        described = json.loads(read_until(server.stdout, b"\n"))
        assert set(described["boards"]) == {"hut-05", "hut-06"}
        assert {board["chip"] for board in described["boards"].values()} == {"esp32c3"}
        assert described["boards"]["hut-05"]["relay"] == "switch.hut_05_power"
        assert (lab.folder / "mine" / "hut-05" / "flash.bin").is_file()

        server.terminate()
        server.communicate(timeout=PATIENCE_S)
        assert server.returncode == 0


def test_a_monitor_of_a_served_board_outlasts_a_power_cut(lab: Lab) -> None:
    lab.write_slots("hut-01", extra='adapter = "bus-powered"')
    with running_hut(lab, "virtual", "--firmware", "demo") as server:
        text = read_until(server.stdout, b'hut_01_power" }\n').decode()
        printed = lab.folder / "printed.toml"
        printed.write_text(text.replace("[slots.hut-01]", f'[slots.hut-01]\nlock_path = "{lab.lock("hut-01")}"'))
        bench = load_bench(printed)
        with running_hut(lab, "monitor", "hut-01", "--config", str(printed), "--reset") as monitor:
            read_until(monitor.stdout, b"demo ready")
            relay(bench, "POST", "services/switch/turn_off", "switch.hut_01_power")
            assert b"went away" in read_until(monitor.stderr, b"waiting for it to come back")
            relay(bench, "POST", "services/switch/turn_on", "switch.hut_01_power")
            read_until(monitor.stderr, b"is back")
            read_until(monitor.stdout, b"demo ready")
            monitor.send_signal(signal.SIGINT)
            monitor.communicate(timeout=PATIENCE_S)
            assert monitor.returncode == 0


def test_firmware_goes_into_the_flash_before_the_board_starts(lab: Lab) -> None:
    images = demo_firmware("esp32")
    folder = lab.save_firmware(images)
    flash = lab.flash_file("hut-08")
    flash.parent.mkdir(parents=True)
    flash.write_bytes(os.urandom(4096) * 1024)
    with running_hut(lab, "virtual", "hut-08", "--firmware", str(folder)) as server:
        read_until(server.stdout, b"hut_08_power")
        content = flash.read_bytes()
        assert all(content[image.offset : image.end] == image.data for image in images.images)


def test_a_tcp_port_in_use(lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = hut(lab, "virtual", "hut-01", "--rfc2217-port", str(port))
    assert done.returncode == 3
    assert ONE_ERROR.fullmatch(done.stderr) and str(port) in done.stderr


@pytest.mark.parametrize("content", [b"too short", b""], ids=["short", "empty"])
def test_a_flash_file_of_another_size(lab: Lab, content: bytes) -> None:
    flash = lab.flash_file("hut-01")
    flash.parent.mkdir(parents=True)
    flash.write_bytes(content)
    done = hut(lab, "virtual", "hut-01")
    assert done.returncode == 3
    assert ONE_ERROR.fullmatch(done.stderr) and str(flash) in done.stderr
