"""A laboratory for tests of whole sessions: a folder with slots.toml, virtual boards with known flash, and pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_hut.contracts.report import Report, read_report
from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.imageset import ImageSet

REPOSITORY = Path(__file__).parent.parent
HW_BOOT_001 = REPOSITORY / "hil_tests" / "test_hw_boot_001.py"
FLASH_SIZE = 4 * 1024 * 1024


@dataclass
class Lab:
    """A working folder with its own home, its own locks and its own virtual boards."""

    folder: Path
    slots: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The HOME of every process started here."""
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process started here."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HUT_", "XDG_", "PYTEST_"))}
        return {**keep, "HOME": str(self.home), "COLUMNS": "200"}

    def write_slots(self, *slot_ids: str, extra: str = "", board: str = "paced = false") -> None:
        """Write a slots.toml of virtual slots with locks in this folder; `board` goes to each `virtual_board`."""
        self.slots = list(slot_ids)
        tables = [
            f'[slots.{slot_id}]\nvirtual = true\nfeatures = ["psram"]\nlock_path = "{self.lock(slot_id)}"\n{extra}\n'
            f"[slots.{slot_id}.power]\noff_s = 0.2\n[slots.{slot_id}.virtual_board]\n{board}\n"
            for slot_id in slot_ids
        ]
        (self.folder / "slots.toml").write_text("\n".join(tables))

    def lock(self, slot_id: str) -> Path:
        """The lock file of a slot in this laboratory."""
        return self.folder / f"{slot_id}.lock"

    def flash_file(self, slot_id: str) -> Path:
        """The flash content of a virtual board."""
        return self.home / ".local/state/hut/virtual" / slot_id / "flash.bin"

    def preload(self, slot_id: str, images: ImageSet | None = None) -> None:
        """Put firmware (the demo by default) into a board's flash, as an earlier session would have left it."""
        flash = bytearray(b"\xff" * FLASH_SIZE)
        for image in (images or demo_firmware("esp32")).images:
            flash[image.offset : image.end] = image.data
        path = self.flash_file(slot_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flash)

    def save_firmware(self, images: ImageSet, name: str = "firmware") -> Path:
        """Write images as files with a manifest of the product's kind, and return the folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        parts = []
        for image in images.images:
            (folder / f"{image.name}.bin").write_bytes(image.data)
            parts.append({"path": f"{image.name}.bin", "offset": image.offset})
        (folder / "manifest.json").write_text(
            json.dumps({"name": "demo", "builds": [{"chipFamily": "ESP32", "parts": parts}]})
        )
        return folder

    def command(self, *arguments: str, slots: Iterable[str] | None = None) -> list[str]:
        """The command line of a pytest session on this laboratory's slots."""
        slot_list = ",".join(self.slots if slots is None else slots)
        options = [f"--hut-slots={slot_list}"] if slot_list else []
        # No session here uses hypothesis, whose plugin takes longer to load than all the rest.
        plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        return [sys.executable, "-m", "pytest", *plugins, *options, *arguments]

    def run(self, *arguments: str, slots: Iterable[str] | None = None, timeout: float = 90) -> Session:
        """Run a session to its end."""
        done = subprocess.run(
            self.command(*arguments, slots=slots),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Session(self, done.returncode, done.stdout + done.stderr)

    def start(self, *arguments: str, slots: Iterable[str] | None = None) -> subprocess.Popen[str]:
        """Start a session in a process group of its own and go on; both output streams come as one."""
        return subprocess.Popen(
            self.command(*arguments, slots=slots),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def write_test(self, text: str, name: str = "test_it.py") -> None:
        """Write a test module into the folder."""
        (self.folder / name).write_text(text)

    def reports(self) -> list[Report]:
        """All reports written in this folder, oldest first; each of them is checked."""
        return [read_report(path) for path in sorted(self.folder.glob("build/hut/*/*_report_*.json"))]

    def events(self, slot_id: str) -> list[dict[str, Any]]:
        """All events about a slot, of all sessions, oldest first."""
        lines = [
            json.loads(line)
            for path in self.folder.glob(f"build/hut/*/{slot_id}/events_*.jsonl")
            for line in path.read_text().splitlines()
        ]
        return sorted(lines, key=lambda event: str(event["utc"]))


@dataclass
class Session:
    """A session that ended."""

    lab: Lab
    exit_code: int
    output: str

    @property
    def report(self) -> Report:
        """Its report, checked."""
        return self.lab.reports()[-1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty laboratory."""
    made = Lab(tmp_path)
    made.home.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return made
