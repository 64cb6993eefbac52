"""One of many processes that want a slot's power cycled; used by tests/test_power_concurrency.py.

Usage: power_holder.py BENCH.json SLOT JOURNAL. Says `ready`, waits for a line, then takes the slot's lock, cycles, and
prints the result as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from pytest_hut.bench.models import Bench
from pytest_hut.events.journal import Journal
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.power.held import held_power

LOCK_TIMEOUT_S = 60.0


def main(bench_file: str, slot_id: str, journal_file: str) -> None:
    """Do as the module says."""
    bench = Bench.model_validate_json(Path(bench_file).read_text())
    slot = bench.slots[slot_id]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with (
        contextlib.closing(Journal(Path(journal_file))) as journal,
        LockFile(slot.lock).acquire(LOCK_TIMEOUT_S),
        held_power(slot, bench, journal.append) as relay,
    ):
        result = relay.cycle()
    sys.stdout.write(json.dumps(result.to_json()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
