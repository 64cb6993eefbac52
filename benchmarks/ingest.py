"""How much console a board can pour out before the host falls behind, and whether a byte is lost on the way.

    python benchmarks/ingest.py

A process at the board's end of a pseudo-terminal writes an application's log. *Unpaced*, it writes as fast as the line
takes it: that gives MB/s, through everything a held slot does (read, write to disk, boot log parser, window for
expect), beside a bare loop of reads, which is the limit. *Paced*, it writes at a baud rate and does not wait: what
finds the line's buffer full is gone, as in a UART overrun; the SHA-256 of what the board said is compared with that of
the log on disk. A pseudo-terminal's buffer is smaller than a USB adapter's, so where a bare loop of reads loses bytes,
the machine is too busy for this measurement. Beside it, on the same kind of line, pytest-embedded's `dut`, which is
installed into a cached environment when it is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from board_end import END_MARK
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
    ratio,
    run_pytest,
    scratch,
)

FLOOD_ROUNDS = 3
"""Each way of reading has its turn in each; the median is shown."""
FLOOD_BYTES = 32_000_000
PEER_FLOOD_BYTES = 1_000_000
"""The peer takes 80 kB/s, so it gets less to take; its rate does not depend on it."""

PACED_S = 10.0
PACED_BAUDS = (921_600, 2_000_000)
BITS_PER_BYTE = 10

GOAL_MB_PER_S = 20.0
TIMEOUT_S = 120.0

Test = Literal["sleeps", "expects", "computes"]
"""What the test does meanwhile: nothing, wait in `expect` for the last line, or keep the interpreter busy."""
TESTS: tuple[Test, ...] = ("sleeps", "expects", "computes")

PEER_TEST = """
import json, os, time

def test_ingest(dut):
    os.write(int(os.environ["GO_FD"]), b"go\\n")
    dut.expect_exact("{mark}", timeout={timeout})
    with open("ingest.json", "w") as file:
        json.dump({{"log": dut.logfile, "end_ns": time.monotonic_ns()}}, file)
"""


@dataclass
class Run:
    """What one way of reading did with what the board said."""

    name: str
    sent: int
    received: int
    same: bool
    """Whether the log on disk is byte for byte what the board said."""
    seconds: float
    reader_cpu_s: float | None = None

    @property
    def mb_per_s(self) -> float:
        """Bytes received, in millions a second, from the first on the wire until the last was seen."""
        return self.received / self.seconds / 1e6

    @property
    def lost_percent(self) -> float:
        """Share of the bytes said that never arrived."""
        return 100 * (1 - self.received / self.sent)


def bare_loop(mode: str, *numbers: float, beside: Test = "sleeps") -> Run:
    """Read into memory and do nothing else, beside a process that does what a test would do."""
    with scratch() as folder, BareLine(folder) as line, BoardEnd(line, mode, *numbers) as board, ExitStack() as stack:
        if beside == "computes":
            stack.enter_context(_busy_process())
        fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
        stack.callback(os.close, fd)
        board.go()
        pieces, end = [], b""
        while END_MARK.encode() not in end:
            pieces.append(os.read(fd, 65536))
            end = (end + pieces[-1])[-2 * len(END_MARK) :]
        end_ns = time.monotonic_ns()
        name = "bare read" if beside == "sleeps" else f"bare read, another process {beside}"
        return _run(name, board.written(), b"".join(pieces), end_ns)


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(number * number for number in range(10_000))"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def ours(mode: str, *numbers: float, baud: int, test: Test) -> Run:
    """Read as a held slot does, while the test in the same process does what `test` says."""
    with (
        scratch() as folder,
        BareLine(folder) as line,
        BoardEnd(line, mode, *numbers) as board,
        our_console(line.path, folder, baud) as our,
    ):
        our.console.mark()
        cpu_s = our.reader_cpu_s()
        board.go()
        if test == "expects":
            our.console.expect(END_MARK, timeout=TIMEOUT_S)
        elif test == "computes":
            while board.running:
                sum(number * number for number in range(10_000))
        else:
            board.wait()
        our.console.mark()  # Returns when all that has arrived is read.
        end_ns = time.monotonic_ns()
        cpu_s = our.reader_cpu_s() - cpu_s
        return _run(f"our console, the test {test}", board.written(), our.log.read_bytes(), end_ns, cpu_s)


def peers(python: Path, mode: str, *numbers: float, baud: int) -> Run:
    """Read with the peer's `dut`, in a pytest process of its own."""
    with scratch() as folder, BareLine(folder) as line, BoardEnd(line, mode, *numbers) as board:
        (folder / "test_ingest.py").write_text(PEER_TEST.format(mark=END_MARK, timeout=TIMEOUT_S))
        run_pytest(python, folder, *peer_arguments(folder, [line.path], baud), go_fd=board.go_fd)
        result = json.loads((folder / "ingest.json").read_text())
        log = Path(result["log"]).read_bytes()
        return _run(f"{PEER} {PEER_VERSION}", board.written(), log, result["end_ns"])


def _run(name: str, written: dict[str, Any], log: bytes, end_ns: int, cpu_s: float | None = None) -> Run:
    same = hashlib.sha256(log).hexdigest() == written["sha256"]
    return Run(name, written["sent"], len(log), same, (end_ns - written["start_ns"]) / 1e9, cpu_s)


def median_flood(python: Path | None) -> list[Run]:
    """Let each way of reading take an unpaced line; ours come first."""
    baud = max(PACED_BAUDS)
    rounds: list[list[Run]] = []
    for _ in range(FLOOD_ROUNDS):
        runs = [ours("flood", FLOOD_BYTES, baud=baud, test=test) for test in TESTS]
        runs.append(bare_loop("flood", FLOOD_BYTES))
        if python:
            runs.append(peers(python, "flood", PEER_FLOOD_BYTES, baud=baud))
        rounds.append(runs)
    by_name = [sorted(runs, key=lambda run: run.mb_per_s) for runs in zip(*rounds, strict=True)]
    return [runs[len(runs) // 2] for runs in by_name]


def print_flood(runs: list[Run]) -> None:
    """Print what an unpaced line gave."""
    print(f"unpaced: as fast as the line takes it, median of {FLOOD_ROUNDS} (goal: >= {GOAL_MB_PER_S:g} MB/s, 0 lost)")
    own = runs[0].mb_per_s
    print_table(
        ["", "MB", "MB/s", "ours / it", "lost", "log = sent"],
        [
            [
                run.name,
                f"{run.sent / 1e6:.0f}",
                f"{run.mb_per_s:.2f}",
                ratio(own, run.mb_per_s),
                f"{run.sent - run.received}",
                "yes" if run.same else "NO",
            ]
            for run in runs
        ],
    )


def print_paced(baud: int, runs: list[Run]) -> None:
    """Print what a baud rate gave."""
    goal = " (goal: 0 lost)" if baud == max(PACED_BAUDS) else ""
    print(f"paced: {baud} baud, {baud / BITS_PER_BYTE / 1000:g} kB/s for {PACED_S:g} s{goal}")
    print_table(
        ["", "bytes sent", "bytes lost", "lost", "SHA-256 same", "reader, of a core"],
        [
            [
                run.name,
                str(run.sent),
                str(run.sent - run.received),
                f"{run.lost_percent:.2g} %",
                "yes" if run.same else "NO",
                "" if run.reader_cpu_s is None else f"{100 * run.reader_cpu_s / run.seconds:.1f} %",
            ]
            for run in runs
        ],
    )


def main() -> None:
    """Measure and print."""
    print_title("serial ingest")
    python = peer_python()
    print_flood(median_flood(python))
    for baud in PACED_BAUDS:
        rate = baud / BITS_PER_BYTE
        paced = [ours("paced", rate, PACED_S, baud=baud, test=test) for test in TESTS]
        paced += [bare_loop("paced", rate, PACED_S, beside=test) for test in ("sleeps", "computes")]
        if python:
            paced.append(peers(python, "paced", rate, PACED_S, baud=baud))
        print_paced(baud, paced)


if __name__ == "__main__":
    main()
