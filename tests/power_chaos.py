"""Kill sessions at random moments of a power cycle, many times, and count the boards that are on afterwards.

    python tests/power_chaos.py --kills 100 --signal KILL --slots 8

On each virtual slot one pytest session after the other cycles power without end, until the signal ends it. The next
session on that slot says what it finds. Exit code 0: every board was on, and every cycle that SIGKILL cut short was
followed by a recovery event.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import Lab

from pytest_hut.lease.lockfile import LockFile
from pytest_hut.power.intent import PowerFile

TEST = """
def test_cycles(power_relay):
    print("\\nfound", power_relay.state(), flush=True)
    while True:
        assert power_relay.cycle().ok
"""

SLOT = """
[slots.{slot}]
virtual = true
lock_path = "{lock}"
power = {{ off_s = 0.15, on_s = 0.05, stable_s = 0.05, watch_s = 0.5 }}
virtual_board = {{ paced = false }}
"""

SPAN_S = 1.0
"""Several cycles: a moment somewhere in it is a random moment of a cycle."""


class Chaos:
    """Counts what happens on all slots; each slot has a thread."""

    def __init__(self, folder: Path, kills: int, number: signal.Signals, slots: list[str], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._kills = kills
        self._number = number
        self._seed = seed
        self._killed: set[str] = set()
        self._changed = threading.Lock()
        self._lab = Lab(folder, slots)
        self._lab.home.mkdir()
        self._lab.write_test(TEST)
        (folder / "pytest.ini").write_text("[pytest]\n")
        tables = [SLOT.format(slot=slot, lock=self._lab.lock(slot)) for slot in slots]
        (folder / "slots.toml").write_text("".join(tables))

    def run(self) -> None:
        """Go on until so many cycles were cut short."""
        with ThreadPoolExecutor(len(self._lab.slots)) as threads:
            for _ in threads.map(self._run_slot, self._lab.slots):
                pass

    def _run_slot(self, slot: str) -> None:
        chance = random.Random(f"{self._seed} {slot}")
        while self._another():
            session = self._begin(slot)
            threading.Event().wait(chance.uniform(0, SPAN_S))
            recoveries = self._recoveries(slot)
            session.send_signal(self._number)
            self._judge(slot, recoveries, session.communicate()[0])
        if slot in self._killed:
            last = self._begin(slot)
            last.terminate()
            last.communicate()

    def _another(self) -> bool:
        """Reserve one more kill; one that turns out to hit no cycle is given back."""
        with self._changed:
            if self.faults or self.counts["reserved"] >= self._kills:
                return False
            self.counts["reserved"] += 1
            return True

    def _begin(self, slot: str) -> subprocess.Popen[str]:
        """Start the next session, and judge what it finds after the one before it was killed."""
        owed, recoveries = self._owed(slot), self._recoveries(slot)
        session = self._lab.start("-s", slots=[slot])
        assert session.stdout is not None
        found = next((line.split()[-1] for line in session.stdout if line.startswith("found ")), None)
        if found is None:
            self._fault(f"{slot}: the next session did not begin (exit code {session.wait()})")
        elif slot in self._killed:
            self._count("on after" if found == "on" else "off after")
            if found != "on":
                self._fault(f"{slot}: the next session found its relay {found}")
            if owed and self._recoveries(slot) == recoveries + 1:
                self._count("recovered")
            elif owed:
                self._fault(f"{slot}: power was owed, and there is no recovery event")
        return session

    def _judge(self, slot: str, recoveries: int, output: str) -> None:
        """Note how the session that was signalled left its board; `recoveries` there were before the signal."""
        self._count("signalled")
        state = (self._lab.home / ".local/state/hut/virtual" / slot / "power").read_text().strip()
        self._count("off at the end" if state == "off" else "on at the end")
        if self._number == signal.SIGKILL:
            self._killed.add(slot)
            self._note_cut(self._owed(slot))
            return
        self._note_cut(self._recoveries(slot) > recoveries)
        if state != "on" or self._owed(slot):
            self._fault(f"{slot}: the session ended with its relay {state}:\n{output[-2000:]}")
        if LockFile(self._lab.lock(slot)).holder() is not None:
            self._fault(f"{slot}: the session ended and its lock did not")

    def _note_cut(self, cut: bool) -> None:
        self._count("in mid-cycle" if cut else "between cycles")
        if not cut:
            self._count("reserved", -1)

    def _owed(self, slot: str) -> bool:
        record = PowerFile(self._lab.lock(slot)).read()
        return record is not None and record.off_intended

    def _recoveries(self, slot: str) -> int:
        return sum(
            event["event"] == "Recovered" and event["what"] == "power restored" for event in self._lab.events(slot)
        )

    def _count(self, what: str, by: int = 1) -> None:
        with self._changed:
            self.counts[what] += by

    def _fault(self, text: str) -> None:
        with self._changed:
            self.faults.append(text)


def main() -> int:
    """Run, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many cycles to cut short (default: 100)")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "HUP", "INT"])
    parser.add_argument("--slots", type=int, default=8, help="how many sessions run at once (default: 8)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeats the random moments")
    options = parser.parse_args()
    number = signal.Signals[f"SIG{options.signal}"]
    slots = [f"chaos-{index:02}" for index in range(1, options.slots + 1)]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        chaos = Chaos(Path(folder), options.kills, number, slots, options.seed)
        chaos.run()
    counts = chaos.counts
    lines = [
        f"{number.name} to {counts['signalled']} sessions on {len(slots)} slots, seed {options.seed}, "
        f"{time.monotonic() - start:.0f} s: {counts['in mid-cycle']} in mid-cycle, "
        f"{counts['between cycles']} between cycles",
        f"relay when the process had ended: {counts['on at the end']} on, {counts['off at the end']} off",
    ]
    if number == signal.SIGKILL:
        lines.append(f"relay when the next session had begun: {counts['on after']} on, {counts['off after']} off")
        lines.append(f"recovery events: {counts['recovered']} of {counts['in mid-cycle']}")
    sys.stdout.write("\n".join([*lines, *(f"FAULT: {fault}" for fault in chaos.faults)]) + "\n")
    return 1 if chaos.faults else 0


if __name__ == "__main__":
    sys.exit(main())
