"""`--hut-lane=upstream`: no port and no relay is touched, whatever the configuration says, and that is proved.

Python tells an audit hook of every file it opens and every connection it makes, in whatever library that happens.
"""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import HW_BOOT_001, Lab, Session

AUDIT = """
import json, os, sys

record = open(f"audit-{os.getpid()}.jsonl", "a", buffering=1)

def note(event, arguments):
    if event in ("open", "socket.connect", "socket.sendto", "subprocess.Popen", "os.posix_spawn", "os.exec"):
        record.write(json.dumps([event, repr(arguments[1] if event.startswith("socket") else arguments[0])]) + "\\n")

sys.addaudithook(note)
"""

HARDWARE_TESTS = """
import pytest

def test_slot(hut_slot): raise AssertionError
def test_relay(power_relay): raise AssertionError
def test_firmware(flashed_firmware): raise AssertionError
@pytest.mark.hut_each
def test_each(hut_slot): raise AssertionError
def test_without_hardware(): pass
"""


class Bench:
    """A bench with hardware: a tty that records nothing, but is there, and a Home Assistant that counts."""

    def __init__(self, lab: Lab, port: Path, url: str, asked: list[str]) -> None:
        self.lab = lab
        self.port = port
        self.url = url
        self.asked = asked

    def run(self, *arguments: str) -> Session:
        # pytest-rerunfailures has a socket between its workers, which the audit would count.
        return self.lab.run("-p", "audit", "-p", "no:rerunfailures", *arguments, slots=["hut-01"])

    def touched(self) -> list[str]:
        """What any process of the sessions so far did that reaches hardware, or the slot's lock."""
        events = [
            json.loads(line) for path in self.lab.folder.glob("audit-*.jsonl") for line in path.read_text().splitlines()
        ]
        assert any(event == "open" for event, _ in events)  # The hook works.
        hardware = (str(self.port), os.ttyname(self.terminal), str(self.lab.lock("hut-01")), "/dev/serial", "/dev/tty")
        return [
            f"{event} {what}"
            for event, what in events
            if event.startswith("socket") or (event == "open" and any(name in what for name in hardware))
        ]

    terminal: int = -1


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    asked: list[str] = []

    class HomeAssistant(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    (lab.folder / "audit.py").write_text(AUDIT)
    lab.write_test(HARDWARE_TESTS)
    credentials = lab.folder / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "runner.env").touch(mode=0o600)
    (credentials / "runner.env").write_text("HOME_ASSISTANT_TOKEN=secret-token\n")
    ours, terminal = os.openpty()
    port = lab.folder / "usb-board-if00"
    port.symlink_to(os.ttyname(terminal))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HomeAssistant) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        made = Bench(lab, port, url, asked)
        made.terminal = terminal
        (lab.folder / "slots.toml").write_text(
            f'[home_assistant]\nurl = "{url}"\ncredentials = "{credentials / "runner.env"}"\n'
            f'[slots.hut-01]\nport = "{port}"\nlock_path = "{lab.lock("hut-01")}"\n'
            'relay = { driver = "home-assistant", entity = "switch.hut_01_power" }\n'
            "[slots.hut-01.power]\nmax_tries = 1\nsettle_timeout_s = 0.2\n"
        )
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
            os.close(ours)
            os.close(terminal)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_nothing_is_opened_and_nobody_is_called(bench: Bench, workers: str) -> None:
    session = bench.run("-rs", "-n", workers, "--hut-lane=upstream", "test_it.py", str(HW_BOOT_001))

    assert session.exit_code == 0, session.output
    assert "1 passed, 5 skipped" in session.output
    assert "the upstream lane has none (--hut-lane=upstream" in session.output
    assert bench.touched() == []
    assert bench.asked == []
    assert not bench.lab.lock("hut-01").exists()
    assert not (bench.lab.folder / "build").exists()


def test_the_same_session_in_the_hardware_lane_does_reach_out(bench: Bench) -> None:
    """The proof above would notice: here it sees the lock, the relay and the port."""
    session = bench.run("--hut-lane=local-hil", "test_it.py")

    assert session.exit_code != 0
    touched = "\n".join(bench.touched())
    assert str(bench.lab.lock("hut-01")) in touched
    assert "socket.connect" in touched and bench.asked


@pytest.mark.parametrize("damage", ["", "[slots.hut-01]\nport = 3\n", "no TOML"])
def test_a_configuration_that_is_bad_or_missing_does_not_matter(bench: Bench, damage: str) -> None:
    path = bench.lab.folder / "slots.toml"
    if damage:
        path.write_text(damage)
    else:
        path.unlink()

    session = bench.run("--hut-lane=upstream", "test_it.py")

    assert session.exit_code == 0, session.output
    assert bench.touched() == []


def test_virtual_boards_are_no_hardware(bench: Bench) -> None:
    """Asked for by name they are served in this lane too; the port and relay of the slot stay untouched."""
    bench.lab.preload("hut-01")

    session = bench.run("--hut-lane=upstream", "--hut-virtual", str(HW_BOOT_001))

    assert session.exit_code == 0, session.output
    assert session.report.lane == "upstream"
    assert bench.asked == []
    touched = bench.touched()
    assert not any(str(bench.port) in what or bench.url.rpartition(":")[2] in what for what in touched)
