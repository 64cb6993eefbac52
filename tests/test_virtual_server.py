"""The relays' REST API as a client of Home Assistant sees it, and the server as a process."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import requests
from virtual_fakes import Lines, bench_of, open_tty

from pytest_hut.bench.virtual_board import Faults, VirtualBoardSpec
from pytest_hut.errors import InfrastructureError
from pytest_hut.virtual.client import VirtualBenchProcess, start_virtual_bench
from pytest_hut.virtual.server import VirtualBench

SPECS = [VirtualBoardSpec("hut-01", paced=False), VirtualBoardSpec("hut-02", paced=False)]
RELAY = "switch.hut_01_power"


def token_of(credentials: str) -> str:
    name, _, value = Path(credentials).read_text().strip().partition("=")
    assert name == "HOME_ASSISTANT_TOKEN"
    return value


@dataclass
class Api:
    """A client with the token, on one kept connection."""

    bench: VirtualBench
    session: requests.Session
    url: str

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=3)

    def post(self, path: str, data: object) -> requests.Response:
        return self.session.post(self.url + path, json=data, timeout=3)

    def service(self, name: str, entity: object = RELAY, domain: str = "switch") -> list[dict[str, object]]:
        answer = self.post(f"/api/services/{domain}/{name}", {"entity_id": entity})
        assert answer.status_code == 200
        changed = answer.json()
        assert isinstance(changed, list)
        return changed


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with bench_of(SPECS, tmp_path) as bench, requests.Session() as session:
        described = bench.describe()["home_assistant"]
        session.headers["Authorization"] = f"Bearer {token_of(described['credentials'])}"
        yield Api(bench, session, described["url"])


def test_the_server_says_that_it_runs(api: Api) -> None:
    assert api.get("/api/").json() == {"message": "API running."}
    assert api.get("/api/core/state").json()["state"] == "RUNNING"
    assert [state["entity_id"] for state in api.get("/api/states").json()] == [RELAY, "switch.hut_02_power"]


def test_a_state_has_the_fields_of_the_real_one(api: Api) -> None:
    state = api.get(f"/api/states/{RELAY}").json()
    assert state["entity_id"] == RELAY
    assert state["state"] == "on"
    assert state["attributes"] == {"friendly_name": "hut-01 power"}
    assert datetime.fromisoformat(state["last_changed"]).utcoffset() == timedelta(0)
    assert state["last_updated"] == state["last_changed"]
    assert set(state["context"]) == {"id", "parent_id", "user_id"}
    assert len(state["context"]["id"]) == 26


def test_services_switch_the_board_and_return_what_changed(api: Api) -> None:
    before = api.get(f"/api/states/{RELAY}").json()
    (changed,) = api.service("turn_off")
    assert (changed["entity_id"], changed["state"]) == (RELAY, "off")
    assert changed["last_changed"] != before["last_changed"]
    assert changed["context"] != before["context"]
    assert api.get(f"/api/states/{RELAY}").json() == changed
    assert not api.bench.boards["hut-01"].powered
    assert api.bench.boards["hut-02"].powered
    assert api.service("turn_off") == []
    assert api.service("toggle")[0]["state"] == "on"
    assert api.service("turn_off", ["switch.nobody", RELAY], domain="homeassistant")[0]["entity_id"] == RELAY
    assert [state["state"] for state in api.service("toggle", "all")] == ["on", "off"]
    assert api.service("turn_on", f"{RELAY}, switch.hut_02_power")[0]["entity_id"] == "switch.hut_02_power"
    assert api.service("turn_on", "switch.nobody") == []


def test_a_power_cycle_over_the_api_is_a_power_on_reset(api: Api) -> None:
    board = api.bench.boards["hut-01"]
    with open_tty(board.device) as tty:
        api.service("turn_off")
        tty.reset_input_buffer()
        assert not select.select([tty], [], [], 0.03)[0]
        api.service("turn_on")
        assert tty.read_until() == b"app POWER_ON\r\n"


def test_a_switch_by_another_process_shows(api: Api, tmp_path: Path) -> None:
    since = api.get(f"/api/states/{RELAY}").json()["last_changed"]
    (tmp_path / "hut-01" / "power").write_text("off\n")
    state = api.get(f"/api/states/{RELAY}").json()
    assert state["state"] == "off"
    assert state["last_changed"] != since


def test_refusals_are_those_of_the_real_server(api: Api) -> None:
    missing = api.get("/api/states/switch.nobody")
    assert (missing.status_code, missing.json()) == (404, {"message": "Entity not found."})
    assert api.get("/api/nothing").status_code == 404
    assert api.get("/").text == "404: Not Found"
    assert api.get("/api/services/switch/turn_on").status_code == 405
    bad = api.session.post(f"{api.url}/api/services/switch/turn_on", data="{no json", timeout=3)
    assert (bad.status_code, bad.json()) == (400, {"message": "Data should be valid JSON."})
    for data in ({}, [], {"entity_id": 7}, {"entity_id": [7]}, None):
        assert api.post("/api/services/switch/turn_on", data).status_code == 400
    assert api.post("/api/services/switch/explode", {"entity_id": RELAY}).text == "400: Bad Request"
    huge = api.session.post(f"{api.url}/api/services/switch/turn_on", data=b" " * 100_000, timeout=3)
    assert huge.status_code == 400
    assert api.get("/api/").status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic x", "Bearer \u00e9"])
def test_without_the_token_nothing_is_told(api: Api, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    for path in ("/api/", f"/api/states/{RELAY}", "/api/virtual/boards", "/nothing"):
        answer = requests.get(api.url + path, headers=headers, timeout=3)
        assert (answer.status_code, answer.text) == (401, "401: Unauthorized")
    answer = requests.post(f"{api.url}/api/services/switch/turn_off", json={"entity_id": RELAY}, headers=headers)
    assert answer.status_code == 401
    assert api.bench.boards["hut-01"].powered


def test_the_token_is_private(api: Api) -> None:
    credentials = Path(api.bench.describe()["home_assistant"]["credentials"])
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.parent.stat().st_mode) == 0o700
    assert token_of(str(credentials)) not in json.dumps(api.bench.describe())


def test_one_connection_serves_many_requests_without_delay(api: Api) -> None:
    api.get("/api/")
    begin = time.monotonic()
    for _ in range(20):
        assert api.get(f"/api/states/{RELAY}").headers["Content-Type"] == "application/json"
    assert time.monotonic() - begin < 0.5  # 0.8 s if head and body waited for each other's acknowledgement


def test_faults_are_set_over_the_api(api: Api) -> None:
    board = api.bench.boards["hut-01"]
    answer = api.post("/api/virtual/hut-01/faults", {"silent": True})
    assert answer.json()["silent"] is True
    assert board.faults == Faults(silent=True)
    shown = api.get("/api/virtual/boards").json()["hut-01"]
    assert shown["faults"]["silent"] is True
    assert shown["powered"] is True
    assert shown["port"] == str(board.device)
    assert api.post("/api/virtual/hut-01/faults", {"bogus": 1}).status_code == 400
    assert api.post("/api/virtual/hut-01/faults", [1]).status_code == 400
    assert api.post("/api/virtual/hut-09/faults", {}).status_code == 404
    with open_tty(board.device) as tty:
        lines = Lines(board.device)
        lines.restart(tty)
        assert not select.select([tty], [], [], 0.03)[0]
        api.post("/api/virtual/hut-01/faults", {})
        lines.restart(tty)
        assert tty.read_until() == b"app POWER_ON\r\n"
        lines.close()


# -- the process


def device_of(process: VirtualBenchProcess, slot_id: str = "hut-01") -> Path:
    return Path(process.describe["boards"][slot_id]["port"])


def process_is_gone(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child ended within so many seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def test_the_process_serves_real_boards_and_leaves_nothing(tmp_path: Path) -> None:
    with start_virtual_bench(SPECS, tmp_path) as process:
        assert set(process.describe["boards"]) == {"hut-01", "hut-02"}
        board = process.describe["boards"]["hut-01"]
        assert board["relay"] == RELAY
        assert board["rfc2217"].startswith("rfc2217://127.0.0.1:")
        device = device_of(process)
        with open_tty(device) as tty:
            lines = Lines(device)
            lines.restart(tty)
            assert b"ets" in tty.read_until()
            lines.close()
        runtime_dir = device.parent.parent
        assert stat.S_IMODE(runtime_dir.stat().st_mode) == 0o700
    assert not runtime_dir.exists()
    assert (tmp_path / "hut-01" / "flash.bin").exists()
    process.close()


def test_the_process_counts_what_passes_the_wires(tmp_path: Path) -> None:
    with start_virtual_bench(SPECS, tmp_path / "state") as bench:
        assert {wire["to_chip"] for wire in bench.wire().values()} == {0}
        device = Path(bench.describe["boards"]["hut-02"]["port"])
        lines = Lines(device)
        with open_tty(device) as port:
            lines.set(dtr=False, rts=True)
            lines.set(dtr=True, rts=False)
            port.read_until(b"waiting for download")
            port.write(bytes(1000))
            deadline = time.monotonic() + 5
            while bench.wire()["hut-02"]["to_chip"] < 1000 and time.monotonic() < deadline:
                time.sleep(0.01)
        wires = bench.wire()
        lines.close()
        assert (wires["hut-01"]["to_chip"], wires["hut-02"]["to_chip"]) == (0, 1000)
        assert wires["hut-02"]["from_chip"] > len("waiting for download")
        os.kill(bench.pid, signal.SIGKILL)
        with pytest.raises(InfrastructureError):
            bench.wire()


def test_the_process_can_do_without_rfc2217_or_have_it_where_asked(tmp_path: Path) -> None:
    with start_virtual_bench(SPECS[:1], tmp_path, rfc2217=False) as process:
        assert process.describe["boards"]["hut-01"]["rfc2217"] is None
    with start_virtual_bench(SPECS[:1], tmp_path) as process:
        url = process.describe["boards"]["hut-01"]["rfc2217"]
        port = int(url.rpartition(":")[2])
        with pytest.raises(InfrastructureError, match=f"TCP port {port} for hut-02"):
            start_virtual_bench(SPECS[1:], tmp_path, rfc2217_ports={"hut-02": port})
    with start_virtual_bench(SPECS[:1], tmp_path, rfc2217_ports={"hut-01": port}) as process:
        assert process.describe["boards"]["hut-01"]["rfc2217"] == url


def test_signals_for_the_caller_do_not_end_the_process_but_sigterm_does(tmp_path: Path) -> None:
    with start_virtual_bench(SPECS[:1], tmp_path) as process:
        os.kill(process.pid, signal.SIGINT)
        device = device_of(process)
        with open_tty(device) as tty:
            Lines(device).restart(tty)
            assert tty.read_until()
        assert os.getsid(process.pid) == process.pid
        os.kill(process.pid, signal.SIGTERM)
        assert process_is_gone(process.pid, 3)
        assert not device.parent.exists()


def test_a_killed_caller_takes_its_bench_along(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from pytest_hut.virtual.client import start_virtual_bench
from pytest_hut.bench.virtual_board import VirtualBoardSpec
process = start_virtual_bench([VirtualBoardSpec("hut-01")], Path(sys.argv[1]))
print(process.pid, process.describe["boards"]["hut-01"]["port"], flush=True)
sys.stdin.read()
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None and caller.stdin is not None
    pid, device = caller.stdout.readline().split()
    assert Path(device).is_symlink()
    caller.kill()
    caller.wait()
    assert process_is_gone(int(pid), 1)
    assert not Path(device).parent.parent.exists()
    caller.stdout.close()
    caller.stdin.close()


def test_a_bench_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="not start: cannot serve virtual boards: a flash of 5 bytes"):
        start_virtual_bench([replace(SPECS[0], flash_size=5)], tmp_path)
    (tmp_path / "hut-01" / "flash.bin").write_bytes(b"short")
    with pytest.raises(InfrastructureError, match=r"flash\.bin holds 5 bytes"):
        start_virtual_bench(SPECS[:1], tmp_path)
    answer = subprocess.run(
        [sys.executable, "-m", "pytest_hut.virtual", "--spec", "-"], input=b"[]\n", capture_output=True, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr == b"cannot serve virtual boards: the specification is not a JSON object\n"


def test_the_spec_can_be_a_file(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    order = {"state_dir": str(tmp_path), "runtime_dir": str(tmp_path / "r"), "boards": []}
    spec.write_text(json.dumps(order))
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_hut.virtual", "--spec", str(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert json.loads(process.stdout.readline())["boards"] == {}
        process.stdin.close()
        assert process.wait(3) == 0
    assert not (tmp_path / "r").exists()
