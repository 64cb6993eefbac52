"""Many processes that want power cycles at once: one after the other on one slot, all at once on many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.events.journal import read_journal
from pytest_hut.events.types import PowerCycled, PowerOffIntended
from pytest_hut.virtual.client import start_virtual_bench
from pytest_hut.virtual.slots import plug_in

REQUESTS = 8
COOLDOWN_S = 0.4
OFF_S = 0.6
SLOTS = [f"many-{index:02}" for index in range(1, REQUESTS + 1)]
CLOCK_S = 0.005
"""Events are stamped in milliseconds."""


@dataclass
class Cycle:
    """One cycle as its journal tells it; wall clock in seconds."""

    began: float
    ended: float
    result: dict[str, Any]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Eight virtual slots, served by a process that is not one of those that want them."""
    power = {"off_s": OFF_S, "cooldown_s": COOLDOWN_S, "stable_s": 0.05}
    slots = {
        slot: Slot.model_validate({"id": slot, "virtual": True, "lock_path": tmp_path / f"{slot}.lock", "power": power})
        for slot in SLOTS
    }
    specs = [slot.virtual_spec() for slot in slots.values()]
    with start_virtual_bench(specs, tmp_path / "state", rfc2217=False) as served:
        yield plug_in(Bench(slots=slots), served.describe)


def cycle_at_once(bench: Bench, slots: list[str], folder: Path) -> list[Cycle]:
    """Let a process for each of `slots` (which may be the same) cycle it, all told to at the same time."""
    file = folder / "bench.json"
    file.write_text(bench.model_dump_json())
    script = str(Path(__file__).with_name("power_holder.py"))
    journals = [folder / f"journal-{number}.jsonl" for number in range(len(slots))]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(file), slot, str(journal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for slot, journal in zip(slots, journals, strict=True)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=90)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return sorted(map(_cycle, journals, results), key=lambda cycle: cycle.began)


def _cycle(journal: Path, result: dict[str, Any]) -> Cycle:
    events = list(read_journal(journal))
    [began] = [event for event in events if isinstance(event, PowerOffIntended)]
    [ended] = [event for event in events if isinstance(event, PowerCycled)]
    times = [datetime.fromisoformat(event.utc).timestamp() for event in (began, ended)]
    return Cycle(times[0], times[1], result)


def test_requests_for_one_slot_are_served_one_after_the_other(bench: Bench, tmp_path: Path) -> None:
    cycles = cycle_at_once(bench, [SLOTS[0]] * REQUESTS, tmp_path)

    assert [cycle.result["status"] for cycle in cycles] == ["ok"] * REQUESTS
    assert all(cycle.result["attempts"] == 2 for cycle in cycles)
    for earlier, later in pairwise(cycles):
        assert later.began >= earlier.ended + COOLDOWN_S - CLOCK_S


def test_slots_are_cycled_at_the_same_time(bench: Bench, tmp_path: Path) -> None:
    cycles = cycle_at_once(bench, SLOTS, tmp_path)

    assert [cycle.result["status"] for cycle in cycles] == ["ok"] * REQUESTS
    assert max(cycle.began for cycle in cycles) < min(cycle.ended for cycle in cycles)
