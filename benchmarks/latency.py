"""How long after a line is on the wire a test that waits for it goes on: p50 and p99.

    python benchmarks/latency.py

A process at the board's end of a pseudo-terminal writes lines that carry the time they were written at; the process
under test compares that with its own clock (the same one) when its `expect` returns. The lines come at random times,
20 ms apart on average, once alone and once among other lines that fill a 115200 baud line. Beside it, on the same kind
of line: a bare loop of poll and read, which is the limit, and pytest-embedded's `dut.expect`, which is installed
into a cached environment when it is not there.
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common import (
    PEER,
    PEER_VERSION,
    BareLine,
    BoardEnd,
    our_console,
    peer_arguments,
    peer_python,
    print_table,
    print_title,
    quantile,
    ratio,
    run_pytest,
    scratch,
)

ROUNDS = 5
"""Each way of waiting has its turn in each, so that whatever else the machine does meets all of them."""
SAMPLES = 100
"""In a round."""
WARM_UP = 20
"""Lines before those; the peer's processes are still starting when the first ones come."""
CHATTER = 11000
"""Bytes a second; 115200 baud carry 11520."""

GOAL_P99_MS = 3.0
TIMEOUT_S = 10.0

PEER_TEST = """
import json, os, time

def test_latency(dut):
    taken = []
    os.write(int(os.environ["GO_FD"]), b"go\\n")
    for number in range({samples}):
        found = dut.expect(rb"tick %d (\\d+)\\r\\n" % number, timeout={timeout})
        taken.append((time.monotonic_ns() - int(found[1])) / 1e6)
    with open("latency.json", "w") as file:
        json.dump(taken, file)
"""


def bare_loop(chatter: float) -> list[float]:
    """Return the latencies, in ms, of a loop that does nothing but wait, read and search."""
    taken: list[float] = []
    with scratch() as folder, BareLine(folder) as line, BoardEnd(line, "ticks", WARM_UP + SAMPLES, chatter) as board:
        fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        board.go()
        data = b""
        while len(taken) < WARM_UP + SAMPLES:
            if not poll.poll(TIMEOUT_S * 1000):
                raise RuntimeError("the board's end of the line fell silent")
            data += os.read(fd, 65536)
            while found := re.search(rb"tick %d (\d+)\r\n" % len(taken), data):
                taken.append((time.monotonic_ns() - int(found[1])) / 1e6)
                data = data[found.end() :]
        os.close(fd)
    return taken[WARM_UP:]


def ours(chatter: float) -> list[float]:
    """Return the latencies, in ms, of `Console.expect`."""
    taken: list[float] = []
    with (
        scratch() as folder,
        BareLine(folder) as line,
        BoardEnd(line, "ticks", WARM_UP + SAMPLES, chatter) as board,
        our_console(line.path, folder) as our,
    ):
        our.console.mark()
        board.go()
        for number in range(WARM_UP + SAMPLES):
            our.console.expect(rf"tick {number} (\d+)\r\n", timeout=TIMEOUT_S)
            taken.append((time.monotonic_ns() - int(our.console.match[1])) / 1e6)
    return taken[WARM_UP:]


def peers(python: Path, chatter: float) -> list[float]:
    """Return the latencies, in ms, of the peer's `dut.expect`, in a pytest process of its own."""
    with scratch() as folder, BareLine(folder) as line, BoardEnd(line, "ticks", WARM_UP + SAMPLES, chatter) as board:
        (folder / "test_latency.py").write_text(PEER_TEST.format(samples=WARM_UP + SAMPLES, timeout=TIMEOUT_S))
        run_pytest(python, folder, *peer_arguments(folder, [line.path]), go_fd=board.go_fd)
        taken: list[float] = json.loads((folder / "latency.json").read_text())
    return taken[WARM_UP:]


def row(name: str, taken: Sequence[float], p50: float, p99: float) -> list[str]:
    """Return a line of the table, with the ratios to our p50 and p99."""
    numbers = [quantile(taken, 0.5), quantile(taken, 0.99), max(taken)]
    ratios = [ratio(numbers[0], p50), ratio(numbers[1], p99)]
    return [name, *(f"{number:.2f}" for number in numbers), *ratios]


def main() -> None:
    """Measure and print."""
    print_title("wire to expect")
    python = peer_python()
    for title, chatter in (("idle line", 0.0), (f"among {CHATTER / 1000:g} kB/s of other lines", CHATTER)):
        runs: dict[str, list[float]] = defaultdict(list)
        for _ in range(ROUNDS):
            runs["console.expect"] += ours(chatter)
            runs["bare poll and read"] += bare_loop(chatter)
            if python:
                runs[f"{PEER} {PEER_VERSION} dut.expect"] += peers(python, chatter)
        own = runs["console.expect"]
        p50, p99 = quantile(own, 0.5), quantile(own, 0.99)
        print(f"{title}, {ROUNDS * SAMPLES} lines, times in ms (goal: p99 <= {GOAL_P99_MS:g} ms)")
        print_table(
            ["", "p50", "p99", "most", "p50 / ours", "p99 / ours"],
            [row(name, taken, p50, p99) for name, taken in runs.items()],
        )


if __name__ == "__main__":
    main()
