"""pytest-embedded flashing the same images: its sessions, timed by the set-up of each test, which flashes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from flash_boards import LINES_SHIM, PATIENCE_S, Boards, build_folder

CONFTEST = """
import json, os

def pytest_runtest_makereport(item, call):
    if call.when == "setup":
        with open(os.environ["FLASH_TIMES"], "a") as file:
            file.write(json.dumps(call.duration) + "\\n")
"""
TEST = """
import pytest

@pytest.mark.parametrize("app_path, number", {apps}, indirect=["app_path"])
def test_boots(dut, number):
    dut.expect("demo ready", timeout=10)
"""


def peer_sessions(
    python: Path, bench: Boards, slot: str, link: str, baud: int, names: Sequence[str]
) -> tuple[list[float], int]:
    """Run one session of a test for each image set; return the seconds of each set-up, and all bytes sent."""
    folder = bench.folder / "peer"
    folder.mkdir(exist_ok=True)
    apps = [(str(build_folder(bench.folder, name)), number) for number, name in enumerate(names)]
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_boots.py").write_text(TEST.format(apps=apps))
    times = folder / "times"
    times.unlink(missing_ok=True)
    before = bench.sent()
    command = [
        *(str(python), "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "test_boots.py"),
        *("--embedded-services", "esp,idf", "--build-dir", ".", "--target", "esp32", "--port", bench.port(slot, link)),
        *("--root-logdir", str(folder / "logs")),
    ]
    environment = bench.environment(slot, link) | {"FLASH_TIMES": str(times), "ESPBAUD": str(baud)}
    if link == "local":
        environment["PYTHONPATH"] = str(LINES_SHIM)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr}")
    return [json.loads(line) for line in times.read_text().splitlines()], bench.sent() - before
