"""How well a bench is used: `python benchmarks/schedule.py [--scaling]`.

Eight virtual slots with two chips, three firmwares, 60 tests of known durations, flashing at the speed of the wire.
Each board has had another build of the firmware, so every flash writes what the builds do not have in common.
Printed are makespan (first test begins to last test ends, as the events tell), the least possible, and reflashes,
for the scheduler of the bench (without history, then with it) and for xdist's `load` and `loadgroup` with the same
fixtures. `--scaling`: the same work per slot on 1 to 16 slots, and the CPU time each slot costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.scheduling.bounds import least_makespan
from pytest_hut.scheduling.distribute import Task

CHIPS = ("esp32", "esp32s3")
FIRMWARES = 3
TESTS = 60
SLOTS = 8
FLASH_BAUD = 230400
"""Slow enough that the wire is the limit, and not two cores that serve eight boards."""

PAYLOAD = 96 * 1024
"""Bytes of each firmware that no other has and that do not compress: what differs is all that a flash writes."""

PAYLOAD_OFFSET = 0x200000

FLASH_SIZE = 4 << 20

TEST = """
@pytest.mark.hut(chip="{chip}", firmware="{firmware}")
@pytest.mark.xdist_group("{chip} {firmware}")
def test_{number:02}(hut_slot, flashed_firmware):
    time.sleep({seconds})  # The work of a test of known duration.
"""


PLAIN_LOAD = """
import pytest
from xdist.scheduler import LoadScheduling

@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return LoadScheduling(config, log)
"""


def seconds_of(number: int) -> float:
    """Return how long the test with this number takes, 1 to 6 s."""
    return 1.0 + (number * 7 % 11) / 2


def write_bench(folder: Path, slots: int) -> list[str]:
    """Write slots.toml and firmware; return the slots."""
    names = [f"hut-{number:02}" for number in range(1, slots + 1)]
    (folder / "slots.toml").write_text(
        "\n".join(
            f'[slots.{name}]\nvirtual = true\nchip = "{CHIPS[number % 2]}"\nflash_baud = {FLASH_BAUD}\n'
            f'lock_path = "{folder / name}.lock"\n'
            for number, name in enumerate(names)
        )
    )
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = xdist_group\n")
    for number in range(FIRMWARES):
        builds = []
        for chip in CHIPS:
            images = with_payload(demo_firmware(chip, version=f"fw-{number}"), number)
            parts = []
            for image in images.images:
                name = f"fw-{number}/{chip}-{image.name}.bin"
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(image.data)
                parts.append({"path": Path(name).name, "offset": image.offset})
            builds.append({"chipFamily": chip.upper().replace("ESP32S3", "ESP32-S3"), "parts": parts})
        (folder / f"fw-{number}" / "manifest.json").write_text(json.dumps({"name": f"fw-{number}", "builds": builds}))
    return names


def with_payload(images: ImageSet, number: int) -> ImageSet:
    """Return the set with a payload of its own, and without its second application, which only takes time."""
    kept = tuple(image for image in images.images if image.name != "ota_0")
    payload = FlashImage("payload", PAYLOAD_OFFSET, random.Random(number).randbytes(PAYLOAD))
    return ImageSet((*kept, payload), source=images.source, chip=images.chip)


def write_tests(folder: Path, count: int) -> None:
    """Write the tests."""
    text = "import time\nimport pytest\n"
    for number in range(count):
        text += TEST.format(
            number=number, chip=CHIPS[number % 2], firmware=f"fw-{number % FIRMWARES}", seconds=seconds_of(number)
        )
    (folder / "test_work.py").write_text(text)


def run(folder: Path, slots: list[str], *arguments: str) -> tuple[dict[str, Any], float]:
    """Run a session; return its report and the CPU seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    plugins = ["no:cacheprovider", "xdist", "pytest_hut.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", *(word for name in plugins for word in ("-p", name))]
    done = subprocess.run(
        [*command, f"--hut-slots={','.join(slots)}", "-n", str(len(slots)), *arguments],
        cwd=folder,
        # Other plugins of this environment are not what is measured.
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HOME": str(folder),
            "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reports = sorted(folder.glob("build/hut/*/*_report_*.json"))
    if not reports:
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads(reports[-1].read_text())
    report["folder"] = str(reports[-1].parent)
    return report, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def makespan(report: dict[str, Any]) -> float:
    """Return seconds from the first lease to the end of the last test."""
    leased, ended = [], []
    for path in Path(report["folder"]).rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            at = datetime.fromisoformat(event["utc"]).timestamp()
            if event["event"] == "SlotLeased":
                leased.append(at)
            elif event["event"] == "TestFinished":
                ended.append(at)
    return max(ended) - min(leased)


def show(name: str, report: dict[str, Any], bound: float | None, cpu_s: float, slots: int) -> None:
    """Print one line."""
    written = [flash for slot in report["slots"] for flash in slot["flashes"] if flash["written"]]
    outcomes = [test["outcome"] for test in report["tests"]]
    span = makespan(report)
    over = f"{100 * (span / bound - 1):+6.1f} %" if bound else ""
    print(
        f"{name:24}{span:6.1f} s {over}  {len(written)} flashes, {needed_flashes(report)} the least for these places; "
        f"{outcomes.count('passed')} passed, {outcomes.count('skipped')} not run; {cpu_s / slots:.1f} s CPU a slot",
        flush=True,
    )


def needed_flashes(report: dict[str, Any]) -> int:
    """Return how many flashes no order of the tests on their slots could have done without."""
    return len(
        {
            (test["slot"], int(test["node_id"].rpartition("_")[2]) % FIRMWARES)
            for test in report["tests"]
            if test["outcome"] == "passed"
        }
    )


def used_before(folder: Path, slots: list[str]) -> None:
    """Leave each board as one that had another build of the firmware: every flash then writes about the payload."""
    shutil.rmtree(folder / ".local/state/hut/slots", ignore_errors=True)
    for number, slot in enumerate(slots):
        flash = bytearray(b"\xff" * FLASH_SIZE)
        for image in with_payload(demo_firmware(CHIPS[number % 2], version="earlier"), -1).images:
            flash[image.offset : image.end] = image.data
        path = folder / ".local/state/hut/virtual" / slot / "flash.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flash)


def compare(folder: Path) -> None:
    """Print the comparison of schedulers."""
    slots = write_bench(folder, SLOTS)
    write_tests(folder, TESTS)
    (folder / "plain_load.py").write_text(PLAIN_LOAD)
    for name, arguments in (
        ("bench, without history", ()),
        ("bench, with history", ()),
        ("xdist --dist load", ("-p", "plain_load")),
        ("xdist --dist loadgroup", ("--dist", "loadgroup")),
    ):
        used_before(folder, slots)
        report, cpu_s = run(folder, slots, *arguments)
        flashes = [flash for slot in report["slots"] for flash in slot["flashes"]]
        flash_s = statistics.median(flash["seconds"] for flash in flashes if flash["written"])
        # A test on a board that has its firmware pays for the proof of that, wherever it runs.
        proof_s = statistics.median(flash["seconds"] for flash in flashes if not flash["written"])
        bound = least_makespan(tasks(slots, proof_s), flash_s - proof_s)
        print(f"  least possible {bound:.1f} s: flash {flash_s:.1f} s, proof {proof_s:.1f} s")
        show(name, report, bound, cpu_s, len(slots))


def tasks(slots: list[str], proof_s: float) -> list[Task]:
    """Return the tests as the schedule sees them; each takes `proof_s` more than its own work."""
    fits = {chip: frozenset(slot for n, slot in enumerate(slots) if CHIPS[n % 2] == chip) for chip in CHIPS}
    return [Task(n, seconds_of(n) + proof_s, f"fw-{n % FIRMWARES}", fits[CHIPS[n % 2]]) for n in range(TESTS)]


SCALING_TEST = """
@pytest.mark.hut_each
@pytest.mark.hut(firmware="fw-{firmware}")
def test_{number:02}(hut_slot, flashed_firmware):
    time.sleep(1.0)  # The work of a test of known duration.
"""


def scale(folder: Path) -> None:
    """Print how long 1 to 16 slots take for the same work on each: two firmwares, four tests of 1 s on each."""
    text = "import time\nimport pytest\n"
    for number in range(8):
        text += SCALING_TEST.format(number=number, firmware=number % 2)
    first: float | None = None
    for count in (1, 2, 4, 8, 16):
        place = folder / str(count)
        place.mkdir()
        slots = write_bench(place, count)
        used_before(place, slots)
        (place / "test_work.py").write_text(text)
        start = time.monotonic()
        report, cpu_s = run(place, slots)
        wall = time.monotonic() - start
        passed = sum(test["outcome"] == "passed" for test in report["tests"])
        first = first or wall
        print(
            f"{count:2} slots: {wall:5.1f} s in all, {wall / first:4.2f} x one slot; first lease to last test "
            f"{makespan(report):5.1f} s; {passed} of {8 * count} passed; {cpu_s / count:4.1f} s CPU per slot, its "
            "virtual board included",
            flush=True,
        )


def main() -> None:
    """Run it in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--folder", type=Path, help="work in this empty folder, and leave it behind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hut-schedule-") as folder:
        (scale if options.scaling else compare)(options.folder or Path(folder))


if __name__ == "__main__":
    main()
