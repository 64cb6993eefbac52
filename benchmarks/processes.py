"""How many processes a session needs beside pytest's own, with one board and with two.

    python benchmarks/processes.py

A test that uses a board counts the descendants of pytest's process in /proc. With two boards, our session has one
xdist worker for each (`-n 2`), so that tests run on both at once; pytest-embedded has both in one test (`--count 2`)
and takes turns. The boards are bare pseudo-terminals, so none of the processes is one of theirs. pytest-embedded is
installed into a cached environment when it is not there.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from common import (
    PEER,
    PEER_VERSION,
    BareLine,
    our_arguments,
    peer_arguments,
    peer_python,
    print_table,
    print_title,
    run_pytest,
    scratch,
)

COUNT_TEST = """
import json, os
from collections import defaultdict
from pathlib import Path
import pytest

def descendants(root):
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children[parent].append(int(stat.parent.name))
    found = list(children[root])
    for pid in found:
        found += children[pid]
    return found

{decorator}
def test_count({fixture}):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    root = os.getpid() if worker == "alone" else os.getppid()
    Path(f"count-{{worker}}.json").write_text(json.dumps(len(descendants(root))))
"""


def extra_processes(python: str | Path, fixture: str, boards: int) -> int:
    """Return how many processes a session with so many boards has beside pytest's own."""
    with scratch() as folder, ExitStack() as stack:
        ports = [stack.enter_context(BareLine(folder)).path for _ in range(boards)]
        ours = fixture == "hut_slot"
        decorator = "@pytest.mark.hut_each" if ours else ""
        (folder / "test_count.py").write_text(COUNT_TEST.format(fixture=fixture, decorator=decorator))
        parallel = ("-n", str(boards)) if ours and boards > 1 else ()
        options = our_arguments(folder, ports) if ours else peer_arguments(folder, ports)
        run_pytest(python, folder, *options, *parallel)
        return max(int(json.loads(path.read_text())) for path in folder.glob("count-*.json"))


def main() -> None:
    """Measure and print."""
    print_title("processes")
    python = peer_python()
    runs: list[tuple[str, str | Path, str]] = [("pytest-hut", sys.executable, "hut_slot")]
    if python:
        runs.append((f"{PEER} {PEER_VERSION}", python, "dut"))
    print("processes beside pytest's own (goal: none more per board; with several boards an xdist worker for each)")
    print_table(
        ["", "1 board", "2 boards"],
        [
            [name, *(str(extra_processes(interpreter, fixture, boards)) for boards in (1, 2))]
            for name, interpreter, fixture in runs
        ],
    )


if __name__ == "__main__":
    main()
