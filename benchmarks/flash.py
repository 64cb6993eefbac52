"""How long flashing takes, beside esptool's own command line on the same virtual boards, paced to the baud rate.

    python benchmarks/flash.py [--bauds 921600,2000000] [--links local,rfc2217] [--slots 1,8,16,32]

The firmware is the demo firmware with a 1 MiB image beside it of which 60 % are left after compression. Every row
is one flash by a session that holds the slot already: `wall` is until the flash is proved, `CPU` is this process's,
`wire` are the bytes sent to the chip, and `x wire` is the wall time over the least time in which the compressed
images can pass the line. esptool's rows are whole runs of `python -m esptool`, which is how its users pay for it; over
the local link its run starts with the chip in its loader, since a pseudo-terminal has no lines that it can set.
With several slots each has a process of its own, started at the same moment; the wall time is that of the last.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.board.hold import hold_slot
from pytest_hut.board.progress import Silent
from pytest_hut.board.reset import reset_to_loader
from pytest_hut.events.journal import Journal
from pytest_hut.firmware.demo import DEMO_PARTITIONS, demo_firmware
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.partitions import TABLE_OFFSET, TYPE_DATA, Partition, build_partition_table
from pytest_hut.link.open import link_for
from pytest_hut.virtual.client import start_virtual_bench

MIB = 1 << 20
EXTRA_OFFSET = 0x150000

PROVED_AT_ONCE_S = 0.05
"""A flash that took less did not restart the board: it has booted that firmware before in the same session."""

FULL, SAME, NEW_SESSION, VERIFY, SECTOR, APP = "full", "same", "new session", "verify", "one sector", "app only"


def firmware(name: str) -> ImageSet:
    """Return image set `a`, or one that differs: `sector` in one byte, `b` in all of the 1 MiB image."""
    chance = random.Random("b" if name == "b" else "a")
    data = bytearray()
    while len(data) < MIB:
        data += chance.randbytes(600) + bytes(400)
    if name == "sector":
        data[MIB // 2] ^= 0xFF
    table = [part for part in DEMO_PARTITIONS if part.offset < EXTRA_OFFSET]
    table.append(Partition("assets", TYPE_DATA, 0x82, EXTRA_OFFSET, MIB))
    images = [
        replace(image, data=build_partition_table(table)) if image.offset == TABLE_OFFSET else image
        for image in demo_firmware("esp32").images
        if image.offset < EXTRA_OFFSET
    ]
    images.append(FlashImage("assets", EXTRA_OFFSET, bytes(data[:MIB])))
    return ImageSet(tuple(images), f"benchmark-{name}", "esp32")


def wire_seconds(images: Sequence[FlashImage], baud: int) -> float:
    """Least time for the images' compressed bytes on the line, ten bits each."""
    return sum(len(zlib.compress(image.data, 9)) for image in images) * 10 / baud


@dataclass
class Row:
    """One measured flash."""

    what: str
    wall_s: float
    cpu_s: float
    wire_bytes: int | None
    least_s: float


def show(title: str, rows: Sequence[Row]) -> None:
    """Print one table."""
    print(f"\n{title}")
    print(f"  {'':<26}{'wall s':>9}{'CPU s':>8}{'wire B':>10}{'least s':>9}{'x wire':>8}")
    for row in rows:
        wire = "-" if row.wire_bytes is None else str(row.wire_bytes)
        ratio = f"{row.wall_s / row.least_s:.2f}" if row.least_s > 0.1 else "-"
        print(f"  {row.what:<26}{row.wall_s:>9.2f}{row.cpu_s:>8.2f}{wire:>10}{row.least_s:>9.2f}{ratio:>8}", flush=True)


def session(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a slot and carry out the flashes asked for; what each cost."""
    folder = Path(order["folder"])
    slot = Slot(id=order["slot"], port=order["port"], flash_baud=order["baud"], lock_path=folder / "lock")
    results = []
    with (
        closing(Journal(folder / "events.jsonl")) as journal,
        hold_slot(
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
            held.flash_mode = mode
            start, used = time.monotonic(), time.process_time()
            flashed = held.flash(images).flash
            wall, cpu = time.monotonic() - start, time.process_time() - used
            if flashed.attempts or wall > PROVED_AT_ONCE_S:
                held.expect_boot()
            results.append({"wall": wall, "cpu": cpu, "wire": flashed.bytes_sent, "proof": flashed.proof})
    return results


@dataclass
class Boards:
    """Virtual boards that are served, and a folder for everything about them."""

    folder: Path
    served: dict[str, Any]

    def port(self, slot: str, link: str) -> str:
        """How a slot is reached."""
        port: str = self.served[slot]["port" if link == "local" else "rfc2217"]
        return port

    def start(self, slot: str, link: str, baud: int, steps: Sequence[tuple[str, str]]) -> subprocess.Popen[bytes]:
        """Start a session of ours in a process of its own."""
        folder = self.folder / slot
        folder.mkdir(exist_ok=True)
        order = {"slot": slot, "port": self.port(slot, link), "baud": baud, "folder": str(folder), "steps": steps}
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        return subprocess.Popen(
            [sys.executable, __file__, "--session", json.dumps(order)], stdout=subprocess.PIPE, env=environment
        )

    def start_esptool(self, slot: str, link: str, baud: int, images: Sequence[FlashImage]) -> subprocess.Popen[bytes]:
        """Start esptool's command line for the same; the chip is in its loader already where it cannot reset it."""
        port, how = self.port(slot, link), []
        if link == "local":
            ours = link_for(port, 115200)
            ours.open(5)
            reset_to_loader(ours, "classic")
            ours.close()
            how = ["--before", "no-reset", "--after", "no-reset"]
        files: list[str] = []
        for image in images:
            path = self.folder / f"{image.sha256[:16]}.bin"
            path.write_bytes(image.data)
            files += [hex(image.offset), str(path)]
        command = [sys.executable, "-m", "esptool", "--chip", "esp32", "--port", port, "--baud", str(baud), *how]
        return subprocess.Popen([*command, "write-flash", *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen[bytes]) -> bytes:
    """Return what a process printed. Raises RuntimeError with its words when it failed."""
    output = process.communicate(timeout=900)[0]
    if process.returncode:
        raise RuntimeError(output.decode(errors="replace")[-2000:])
    return output


def child_cpu() -> float:
    """Processor seconds of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def boards(count: int) -> Iterator[Boards]:
    """Serve `count` blank paced boards."""
    with tempfile.TemporaryDirectory() as folder:
        specs = [VirtualBoardSpec(f"bench-{number:02}") for number in range(count)]
        with start_virtual_bench(specs, Path(folder) / "boards") as bench:
            yield Boards(Path(folder), bench.describe["boards"])


def one_slot(link: str, baud: int) -> None:
    """Print the table of everything one slot does."""
    a, b = firmware("a").images, firmware("b").images
    least, least_app = wire_seconds(a, baud), wire_seconds(b[-1:], baud)
    plans = (
        [(FULL, "a", "auto", least), (SAME, "a", "auto", 0.0), (f"{SAME}, by MD5", "a", "verify", 0.0)],
        [(NEW_SESSION, "a", "auto", 0.0), (SECTOR, "sector", "auto", 0.0), ("sector, by MD5", "a", "verify", 0.0)],
        [
            (f"{APP} ({name})", name, "auto", least_app if name == "b" or number else 0.0)
            for number, name in enumerate(("a", "b", "a", "b"))
        ],
    )
    rows: list[Row] = []
    slot = "bench-00"
    with boards(1) as bench:
        for plan in plans:
            results = json.loads(ended(bench.start(slot, link, baud, [(name, mode) for _, name, mode, _ in plan])))
            for (what, _, _, least_s), result in zip(plan, results, strict=True):
                note = " + boot" if result["proof"].startswith("ELF") and result["wall"] > PROVED_AT_ONCE_S else ""
                rows.append(Row(what + note, result["wall"], result["cpu"], result["wire"], least_s))
        for what, images, least_s in (("full", a, least), ("same", a, 0.0), ("app only", b[-1:], least_app)):
            process = bench.start_esptool(slot, link, baud, images)
            start, used = time.monotonic(), child_cpu()
            ended(process)
            rows.append(Row(f"esptool: {what}", time.monotonic() - start, child_cpu() - used, None, least_s))
    show(f"one slot, {link}, {baud} baud", rows)


def many_slots(counts: Sequence[int], link: str, baud: int, *, esptool: bool) -> None:
    """Print how the time of a full write grows with the number of boards."""
    images = firmware("a").images
    rows = []
    for count in counts:
        for ours in (True, False) if esptool else (True,):
            with boards(count) as bench:
                start, used = time.monotonic(), child_cpu()
                slots = [f"bench-{number:02}" for number in range(count)]
                if ours:
                    running = [bench.start(slot, link, baud, [("a", "auto")]) for slot in slots]
                else:
                    running = [bench.start_esptool(slot, link, baud, images) for slot in slots]
                outputs = [ended(process) for process in running]
                wall, cpu = time.monotonic() - start, child_cpu() - used
                wire = sum(json.loads(output)[0]["wire"] for output in outputs) if ours else None
            name = "ours" if ours else "esptool"
            rows.append(Row(f"{name}, {count} slots", wall, cpu, wire, wire_seconds(images, baud)))
    show(f"full write on many slots, {link}, {baud} baud (whole processes, boot included for ours)", rows)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bauds", default="921600,2000000")
    parser.add_argument("--links", default="local,rfc2217")
    parser.add_argument("--slots", default="1,8,16,32")
    parser.add_argument("--no-esptool-on-many", action="store_true")
    parser.add_argument("--only-many", action="store_true", help="leave out what one slot does")
    parser.add_argument("--session", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.session:
        print(json.dumps(session(json.loads(options.session))))
        return
    bauds = [int(word) for word in options.bauds.split(",") if word]
    links = [word for word in options.links.split(",") if word]
    counts = [int(word) for word in options.slots.split(",") if word]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before the first measurement")
    for baud in () if options.only_many else bauds:
        for link in links:
            one_slot(link, baud)
    if counts:
        many_slots(counts, links[0], bauds[0], esptool=not options.no_esptool_on_many)


if __name__ == "__main__":
    main()
