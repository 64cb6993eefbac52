"""How early a schedule could end at best: what a measured makespan is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from pytest_hut.scheduling.distribute import Task


def least_makespan(tasks: Sequence[Task], flash_s: float) -> float:
    """Return seconds below which no schedule on boards with unknown firmware can end.

    For every set of slots, the tests that fit nowhere else have to be done there, each used slot flashes at least
    once, and each firmware is flashed at least once.
    """
    longest = max((task.seconds + (flash_s if task.firmware else 0.0) for task in tasks), default=0.0)
    kinds = sorted({task.fits for task in tasks}, key=sorted)
    bounds = [longest]
    for size in range(1, len(kinds) + 1):
        for chosen in combinations(kinds, size):
            slots = frozenset().union(*chosen)
            bounds.append(_least_on([task for task in tasks if task.fits <= slots], len(slots), flash_s))
    return max(bounds)


def _least_on(tasks: Sequence[Task], slots: int, flash_s: float) -> float:
    flashing = sum(task.seconds for task in tasks if task.firmware)
    total = sum(task.seconds for task in tasks)
    firmwares = len({task.firmware for task in tasks} - {None})
    if not firmwares:
        return total / slots
    ends = []
    for used in range(1, slots + 1):
        flashes = flash_s * max(firmwares, used)
        ends.append(max((flashing + flashes) / used, (total + flashes) / slots))
    return min(ends)
