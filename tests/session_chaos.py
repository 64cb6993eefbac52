"""Two sessions at once that want overlapping slots: `python tests/session_chaos.py --rounds 50`.

Both have to finish, and no slot may be held twice at any time, as the events of both tell.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from lab import Lab

from pytest_hut.lease.lockfile import LockFile

TESTS = """
import pytest

@pytest.mark.hut_each
def test_each(hut_slot): pass

@pytest.mark.parametrize("n", range(3))
def test_any(hut_slot, n): pass
"""

WISHES = (
    ("hut-01,hut-02", "hut-02,hut-01"),
    ("hut-01,hut-02", "hut-02,hut-03"),
    ("hut-03,hut-01", "hut-01,hut-02,hut-03"),
    ("any:2", "any:2"),
    ("any:2", "hut-03,hut-02"),
    ("all", "any:3"),
)
LIMIT_S = 120


def main() -> int:
    """Run the rounds; the two sessions of a round start together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hut-chaos-"))
    lab = Lab(folder)
    lab.home.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    lab.write_slots("hut-01", "hut-02", "hut-03")
    lab.write_test(TESTS)
    wrong: list[str] = []
    started = time.monotonic()
    for number in range(options.rounds):
        wishes = list(chance.choice(WISHES)) if number >= len(WISHES) else list(WISHES[number])
        sessions = [
            lab.start("-n", "auto", "-q", f"--hut-slots={wish}", f"--hut-job-id=R{number}-{which}", slots=[])
            for which, wish in enumerate(wishes)
        ]
        for wish, session in zip(wishes, sessions, strict=True):
            output = session.communicate(timeout=LIMIT_S)[0]
            if session.returncode != 0:
                wrong.append(f"round {number}, {wish}: exit {session.returncode}\n{output[-3000:]}")
    wrong += [line for slot in lab.slots for line in _held_twice(lab, slot)]
    wrong += [f"{slot} is still held" for slot in lab.slots if LockFile(lab.lock(slot)).holder() is not None]
    leases = sum(event["event"] == "SlotLeased" for slot in lab.slots for event in lab.events(slot))
    seconds = time.monotonic() - started
    print(f"{options.rounds} rounds in {seconds:.0f} s; {leases} leases; {len(wrong)} things wrong")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _held_twice(lab: Lab, slot: str) -> list[str]:
    """Return where a lease began before the one before had ended."""
    wrong, held = [], ""
    for event in lab.events(slot):
        if event["event"] == "SlotLeased":
            if held:
                wrong.append(f"{slot} was leased at {event['utc']} while held since {held}")
            held = event["utc"]
        elif event["event"] == "SlotReleased":
            held = ""
    return wrong


if __name__ == "__main__":
    sys.exit(main())
