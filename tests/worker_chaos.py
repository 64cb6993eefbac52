"""Kill workers of a session at random and see that nothing is lost: `python tests/worker_chaos.py --kills 50`.

Each test has to be in the report exactly once as passed, failed or crashed, no slot may stay held, and the session has
to end by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lab import Lab

from pytest_hut.lease.lockfile import LockFile

TESTS = """
import pytest, time

@pytest.mark.parametrize("n", range({count}))
def test_it(hut_slot, n):
    time.sleep({seconds})  # The work of a test.

@pytest.mark.hut(count=2)
@pytest.mark.parametrize("n", range({pairs}))
def test_pair(hut_slots, n):
    time.sleep({seconds})
"""


def main() -> int:
    """Run one session and kill its workers until it has lost as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hut-chaos-"))
    lab = Lab(folder)
    lab.home.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    lab.write_slots(*(f"hut-{number:02}" for number in range(1, options.slots + 1)))
    count, pairs = 15 * options.kills, -(-options.kills // 5)
    lab.write_test(TESTS.format(count=count, seconds=0.2, pairs=pairs))

    session = lab.start("-n", "auto", "--max-worker-restart=1000", "-q")
    killed = 0
    deadline = time.monotonic() + 60 + 10 * options.kills
    while killed < options.kills and session.poll() is None and time.monotonic() < deadline:
        time.sleep(chance.uniform(0.2, 1.2))  # Chance decides what the victim is doing then.
        workers = _workers(session.pid)
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
                killed += 1
    output = session.communicate(timeout=max(1.0, deadline - time.monotonic()))[0]

    if not lab.reports():
        print(f"{killed} workers killed; the session wrote no report\n{output[-5000:]}")
        return 1
    tests = lab.reports()[-1].tests
    outcomes = Counter(test.outcome for test in tests)
    names = Counter(test.node_id for test in tests)
    wrong = []
    if len(names) != count + pairs:
        wrong.append(f"{count + pairs} tests, but {len(names)} in the report")
    wrong += [f"{name} is in the report {times} times" for name, times in names.items() if times > 1]
    if set(outcomes) - {"passed", "failed", "crashed"}:
        wrong.append(f"outcomes {dict(outcomes)}")
    wrong += [f"{slot} is still held" for slot in lab.slots if LockFile(lab.lock(slot)).holder() is not None]
    print(f"{killed} workers killed; {dict(outcomes)}; exit {session.returncode}; {len(wrong)} things wrong")
    for line in wrong:
        print(line)
    if wrong:
        print(output[-5000:])
    return 1 if wrong or killed < options.kills else 0


def _workers(controller: int) -> list[int]:
    """Return the workers of a session that hold a slot: children of the controller with a journal open.

    Those that are still starting are spared: execnet and xdist themselves do not survive that.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == controller and any("events_gw" in str(fd.readlink()) for fd in (path / "fd").iterdir()):
                found.append(int(path.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
