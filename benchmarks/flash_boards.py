"""What is flashed in the benchmark of flashing, and onto what: images, served boards, and processes that flash them."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.board.progress import Silent
from pytest_hut.cli.holding import held_slot
from pytest_hut.events.journal import Journal
from pytest_hut.firmware.demo import DEMO_PARTITIONS, demo_firmware
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.partitions import TABLE_OFFSET, TYPE_DATA, Partition, build_partition_table
from pytest_hut.virtual.client import VirtualBenchProcess, start_virtual_bench

MIB = 1 << 20
ASSETS_OFFSET = 0x150000
LINES_SHIM = Path(__file__).parent / "lines"
PATIENCE_S = 420.0

Step = tuple[str, str]
"""An image set by name, and a mode of flashing; the mode `boot` only restarts the board."""


@cache
def firmware(name: str) -> ImageSet:
    """Return image set `a`, or one that differs: `sector` in one byte, `b` in all of the 1 MiB image."""
    chance = random.Random("b" if name == "b" else "a")
    data = bytearray()
    while len(data) < MIB:
        data += chance.randbytes(600) + bytes(400)
    if name == "sector":
        data[MIB // 2] ^= 0xFF
    table = [part for part in DEMO_PARTITIONS if part.offset < ASSETS_OFFSET]
    table.append(Partition("assets", TYPE_DATA, 0x82, ASSETS_OFFSET, MIB))
    images = [
        replace(image, data=build_partition_table(table)) if image.offset == TABLE_OFFSET else image
        for image in demo_firmware("esp32").images
        if image.offset < ASSETS_OFFSET
    ]
    images.append(FlashImage("assets", ASSETS_OFFSET, bytes(data[:MIB])))
    return ImageSet(tuple(images), f"benchmark-{name}", "esp32")


def build_folder(folder: Path, name: str) -> Path:
    """Write an image set as ESP-IDF's build folder has it, which all of the programs can read."""
    build = folder / f"build-{name}"
    build.mkdir(exist_ok=True)
    files = {}
    for image in firmware(name).images:
        (build / f"{image.name}.bin").write_bytes(image.data)
        files[hex(image.offset)] = f"{image.name}.bin"
    arguments = {
        "write_flash_args": ["--flash-mode", "keep", "--flash-size", "keep", "--flash-freq", "keep"],
        "flash_settings": {"flash_mode": "keep", "flash_size": "keep", "flash_freq": "keep"},
        "flash_files": files,
        "extra_esptool_args": {"after": "hard-reset", "before": "default-reset", "stub": True, "chip": "esp32"},
    }
    (build / "flasher_args.json").write_text(json.dumps(arguments))
    return build


@cache
def packed_size(images: Sequence[FlashImage]) -> int:
    """Bytes of the images when they are compressed as well as can be."""
    return sum(len(zlib.compress(image.data, 9)) for image in images)


def wire_seconds(images: Sequence[FlashImage], baud: int) -> float:
    """Least time for the images' compressed bytes on the line, ten bits each."""
    return packed_size(tuple(images)) * 10 / baud


def session(order: dict[str, Any]) -> None:
    """Hold a slot and carry out the steps asked for; print what each took, and wait for a line after each."""
    folder = Path(order["folder"])
    slot = Slot(id=order["slot"], port=order["port"], flash_baud=order["baud"], lock_path=folder / "lock")
    with (
        closing(Journal(folder / "events.jsonl")) as journal,
        held_slot(
            slot,
            Bench(slots={slot.id: slot}),
            job="benchmark",
            lock_timeout_s=5,
            journal=journal,
            console_log=folder / "console.log",
            progress=Silent(),
        ) as held,
    ):
        for name, mode in order["steps"]:
            images = firmware(name)
            start, used = time.monotonic(), time.process_time()
            if mode == "boot":
                held.boot()
                proof, restarted = "", True
            else:
                held.flash_mode = mode
                flashed = held.flash(images).flash
                proof, restarted = flashed.proof, bool(flashed.attempts)
            result = {"wall": time.monotonic() - start, "cpu": time.process_time() - used, "proof": proof}
            if restarted and mode != "boot":
                held.expect_boot()
            print(json.dumps(result), flush=True)
            sys.stdin.readline()


def child_cpu() -> float:
    """Processor seconds of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass
class Boards:
    """Virtual boards that are served, and a folder for everything about them."""

    folder: Path
    process: VirtualBenchProcess

    @property
    def slots(self) -> list[str]:
        """Their slot ids."""
        return list(self.process.describe["boards"])

    def port(self, slot: str, link: str) -> str:
        """How a slot is reached."""
        port: str = self.process.describe["boards"][slot]["port" if link == "local" else "rfc2217"]
        return port

    def sent(self) -> int:
        """Bytes that have passed the wires to the chips so far."""
        return sum(wire["to_chip"] for wire in self.process.wire().values())

    def environment(self, slot: str | None = None, link: str = "") -> dict[str, str]:
        """The environment of a process that flashes; with a slot, one that needs help to set its lines."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("PYTEST_", "HUT_"))}
        clean |= {"XDG_STATE_HOME": str(self.folder / "state"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        if slot is not None and link == "local":
            clean |= {"PYTHONPATH": str(LINES_SHIM), "HUT_BENCHMARK_LINES": f"{self.port(slot, link)}.lines"}
        return clean

    def session(self, slot: str, link: str, baud: int, steps: Sequence[Step]) -> subprocess.Popen[str]:
        """Start a session of ours in a process of its own."""
        folder = self.folder / slot
        folder.mkdir(exist_ok=True)
        order = {"slot": slot, "port": self.port(slot, link), "baud": baud, "folder": str(folder), "steps": steps}
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(),
            text=True,
        )

    def hut_flash(self, link: str, baud: int, build: Path) -> subprocess.Popen[str]:
        """Start `hut flash all`."""
        tables = [
            f'[slots.{slot}]\nport = "{self.port(slot, link)}"\nflash_baud = {baud}\n'
            f'lock_path = "{self.folder / slot}.lock"\n'
            for slot in self.slots
        ]
        (self.folder / "slots.toml").write_text("\n".join(tables))
        command = [sys.executable, "-m", "pytest_hut.cli", "flash", "all", str(build)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment(),
            text=True,
        )

    def esptool(self, slot: str, link: str, baud: int, images: Sequence[FlashImage]) -> subprocess.Popen[str]:
        """Start esptool's command line."""
        files: list[str] = []
        for image in images:
            path = self.folder / f"{image.sha256[:16]}.bin"
            path.write_bytes(image.data)
            files += [hex(image.offset), str(path)]
        chosen = ["--chip", "esp32", "--port", self.port(slot, link), "--baud", str(baud)]
        return subprocess.Popen(
            [sys.executable, "-m", "esptool", *chosen, "write-flash", *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment(slot, link),
            text=True,
        )


def ended(process: subprocess.Popen[str]) -> str:
    """Return what a process printed. Raises RuntimeError with its words when it failed."""
    output = process.communicate(timeout=PATIENCE_S)[0]
    if process.returncode:
        raise RuntimeError(output[-2000:])
    return output


@contextmanager
def boards(count: int) -> Iterator[Boards]:
    """Serve `count` blank paced boards."""
    with tempfile.TemporaryDirectory(prefix="hut-benchmark-") as folder:
        specs = [VirtualBoardSpec(f"bench-{number:02}") for number in range(count)]
        with start_virtual_bench(specs, Path(folder) / "boards") as process:
            yield Boards(Path(folder), process)


if __name__ == "__main__":
    session(json.loads(sys.argv[1]))
