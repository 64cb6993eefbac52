"""The same tests on a board that is reached over RFC 2217, and esptool's own command line on that board."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from lab import HW_BOOT_001, Lab

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.virtual.client import VirtualBenchProcess, start_virtual_bench


@pytest.fixture
def served(lab: Lab) -> Iterator[VirtualBenchProcess]:
    """A virtual board that some other process serves."""
    lab.preload("hut-01")
    spec = VirtualBoardSpec("hut-01", paced=False)
    with start_virtual_bench([spec], lab.home / ".local/state/hut/virtual") as process:
        yield process


def test_hw_boot_001_over_rfc2217(lab: Lab, served: VirtualBenchProcess) -> None:
    board = served.describe["boards"]["hut-01"]
    relays = served.describe["home_assistant"]
    (lab.folder / "slots.toml").write_text(
        f'[home_assistant]\nurl = "{relays["url"]}"\ncredentials = "{relays["credentials"]}"\n'
        f'[slots.hut-01]\nport = "{board["rfc2217"]}"\nlock_path = "{lab.lock("hut-01")}"\n'
        f'relay = {{ driver = "home-assistant", entity = "{board["relay"]}" }}\npower = {{ off_s = 0.2 }}\n'
    )

    firmware = lab.save_firmware(demo_firmware("esp32"))
    session = lab.run(f"--hut-firmware={firmware}", str(HW_BOOT_001), slots=["hut-01"])

    assert session.exit_code == 0, session.output
    [slot] = session.report.slots
    assert (slot.virtual, slot.port) == (False, board["rfc2217"])
    assert [flash.written for flash in slot.flashes] == [False]


def test_esptools_command_line_with_its_default_reset(lab: Lab) -> None:
    """Each command on a board of its own and all at once: over RFC 2217 esptool spends its time waiting."""
    content = lab.folder / "content.bin"
    content.write_bytes(bytes(range(256)) * 33)
    size, offset = content.stat().st_size, 0x20000
    commands = {
        "flash-id": ["flash-id"],
        "write-flash": ["write-flash", hex(offset), str(content)],
        "verify-flash": ["verify-flash", hex(offset), str(content)],
        "read-flash": ["read-flash", hex(offset), str(size)],
    }
    modes = {"stub": [], "no-stub": ["--no-stub"]}
    jobs = {f"{mode}-{command}": (modes[mode], commands[command]) for mode in modes for command in commands}
    for board in jobs:
        images = (FlashImage("content", offset, content.read_bytes()),) if "write" not in board else ()
        lab.preload(board, ImageSet(images, "test"))
    specs = [VirtualBoardSpec(board, paced=False) for board in jobs]

    with start_virtual_bench(specs, lab.home / ".local/state/hut/virtual") as bench:
        running = {}
        for board, (options, command) in jobs.items():
            port = bench.describe["boards"][board]["rfc2217"]
            target = [str(lab.folder / f"{board}.bin")] if "read" in board else []
            running[board] = subprocess.Popen(
                [sys.executable, "-m", "esptool", "--port", port, "--chip", "esp32", *options, *command, *target],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        outputs = {board: process.communicate(timeout=120)[0] for board, process in running.items()}

    for board, process in running.items():
        assert process.returncode == 0, f"{board}: {outputs[board]}"
    for mode in modes:
        assert "Detected flash size: 4MB" in outputs[f"{mode}-flash-id"]
        assert "Verification successful" in outputs[f"{mode}-verify-flash"]
        assert (lab.folder / f"{mode}-read-flash.bin").read_bytes() == content.read_bytes()
        written = lab.flash_file(f"{mode}-write-flash").read_bytes()
        assert written[offset : offset + size] == content.read_bytes()
