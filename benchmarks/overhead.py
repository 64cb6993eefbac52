"""What the plugin costs: its load where no slot is used, and a test that uses one.

    python benchmarks/overhead.py

Load is the wall time of `pytest --collect-only` with the plugin and without it, in interleaved pairs; no other plugin
is loaded in either, since theirs varies by more than ours takes.
Per test it is the time from the start of one trivial test to the start of the next, in a session of trivial tests that
ask for `hut_slot`, beside a session of the same tests that do not; the board is a virtual one that runs the demo
firmware, in a process outside of the session. The same is done with pytest-embedded's `dut` on the same board's port;
it is installed into a cached environment when it is not there.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common import (
    PEER,
    PEER_VERSION,
    our_arguments,
    peer_arguments,
    peer_python,
    print_table,
    print_title,
    quantile,
    ratio,
    run_pytest,
    scratch,
)

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.virtual.client import start_virtual_bench

LOAD_PAIRS = 20
TESTS = 1000
PEER_TESTS = 100
"""The peer takes more than 100 ms a test; its time per test does not depend on how many there are."""
ROUNDS = 3

LOAD_RESOLUTION_S = 0.002
"""A median of so few pairs tells no less than this."""

GOAL_LOAD_S = 0.03
GOAL_TEST_MS = 2.0

FLASH_TEST = """
from pytest_hut.firmware.demo import demo_firmware

def test_flash(hut_slot):
    hut_slot.flash(demo_firmware(hut_slot.chip))
    hut_slot.expect_boot()
"""

TRIVIAL_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_nothing({fixtures}number):
    pass
"""

CLOCK = """
import json, time

starts = []

def pytest_runtest_logstart():
    starts.append(time.monotonic())

def pytest_sessionfinish():
    # The first test pays for what the session sets up once.
    with open("per_test.json", "w") as file:
        json.dump((starts[-1] - starts[1]) / (len(starts) - 2), file)
"""
"""A conftest.py."""


def load_times(python: str | Path, plugin: str) -> list[float]:
    """Return by how many seconds the module `plugin` makes a collection longer, per pair of runs."""
    differences: list[float] = []
    with scratch() as folder:
        (folder / "test_nothing.py").write_text("def test_nothing(): pass\n")
        for pair in range(-1, LOAD_PAIRS):
            order = ("without", "with") if pair % 2 else ("with", "without")
            seconds = {
                which: run_pytest(
                    python,
                    folder,
                    *("--collect-only", "-q"),
                    *(("-p", plugin) if which == "with" else ()),
                    autoload=False,
                )
                for which in order
            }
            if pair >= 0:  # The one before fills the caches.
                differences.append(seconds["with"] - seconds["without"])
    return differences


@contextlib.contextmanager
def served_board() -> Iterator[Path]:
    """A virtual board that runs the demo firmware, in a process of its own; its port."""
    specs = [VirtualBoardSpec("bench", paced=False)]
    with scratch() as folder, start_virtual_bench(specs, folder / "boards", rfc2217=False) as bench:
        port = Path(bench.describe["boards"]["bench"]["port"])
        (folder / "test_flash.py").write_text(FLASH_TEST)
        run_pytest(sys.executable, folder, *our_arguments(folder, [port]))
        yield port


@dataclass
class Session:
    """A pytest session of trivial tests that ask for `fixture`, or for nothing when it is empty."""

    python: str | Path
    fixture: str
    count: int

    def per_test_ms(self, port: Path) -> float:
        """Run it and return the milliseconds from one test to the next."""
        with scratch() as folder:
            asks = f"{self.fixture}, " if self.fixture else ""
            (folder / "test_trivial.py").write_text(TRIVIAL_TESTS.format(count=self.count, fixtures=asks))
            (folder / "conftest.py").write_text(CLOCK)
            options = peer_arguments(folder, [port]) if self.fixture == "dut" else our_arguments(folder, [port])
            run_pytest(self.python, folder, "-q", *(options if self.fixture else ()))
            seconds: float = json.loads((folder / "per_test.json").read_text())
        return seconds * 1000


def print_load(python: Path | None) -> None:
    """Measure the load of both plugins and print it."""
    plugins: list[tuple[str, str | Path, str]] = [("pytest-hut", sys.executable, "pytest_hut.pytest_plugin")]
    if python:
        plugins.append((f"{PEER} {PEER_VERSION}", python, "pytest_embedded.plugin"))
    measured = {name: load_times(interpreter, plugin) for name, interpreter, plugin in plugins}
    own = max(median(measured["pytest-hut"]), LOAD_RESOLUTION_S)
    print(f"load without a slot, {LOAD_PAIRS} pairs, differences in ms (goal: <= {GOAL_LOAD_S * 1000:g} ms)")
    print(f"(ratio to ours, or to {LOAD_RESOLUTION_S * 1000:g} ms where ours is too small to be told)")
    print_table(
        ["", "median", "quarter below", "quarter above", "median / ours"],
        [
            [
                name,
                *(f"{quantile(times, part) * 1000:.0f}" for part in (0.5, 0.25, 0.75)),
                ratio(max(median(times), LOAD_RESOLUTION_S), own),
            ]
            for name, times in measured.items()
        ],
    )


def print_per_test(python: Path | None) -> None:
    """Measure sessions of trivial tests, in turns, and print them."""
    sessions = [Session(sys.executable, "", TESTS), Session(sys.executable, "hut_slot", TESTS)]
    if python:
        sessions += [Session(python, "", PEER_TESTS), Session(python, "dut", PEER_TESTS)]
    times: list[list[float]] = [[] for _ in sessions]
    with served_board() as port:
        for _ in range(ROUNDS):
            for session, taken in zip(sessions, times, strict=True):
                taken.append(session.per_test_ms(port))
    own = median(times[1]) - median(times[0])
    rows: list[list[str]] = []
    for index in range(0, len(sessions), 2):
        without, with_board = median(times[index]), median(times[index + 1])
        added = with_board - without
        session = sessions[index + 1]
        numbers = [f"{value:.2f}" for value in (without, with_board, added)]
        rows.append([session.fixture, str(session.count), *numbers, ratio(added, own)])
    print(f"a trivial test, median of {ROUNDS} sessions, times in ms (goal: <= {GOAL_TEST_MS:g} ms more)")
    print_table(["fixture", "tests", "without", "with", "more", "more / ours"], rows)


def main() -> None:
    """Measure and print."""
    print_title("overhead")
    python = peer_python()
    print_load(python)
    print_per_test(python)


if __name__ == "__main__":
    main()
