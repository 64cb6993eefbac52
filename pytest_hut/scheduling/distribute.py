"""Spread tests over slots: early end first, then few flashes.

Tests that flash the same firmware form a group, and a slot pays for the flash once per group it takes part in. For a
given end the groups are packed one after the other, each on as few slots as it needs; the earliest end that can be
packed is searched by halving, and what is left of imbalance is moved about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HALVINGS = 24
PRECISION = 1e-3
"""Of the time that the schedule takes."""

MOVES = 200
"""So many improvements of a finished schedule are tried; small sessions settle far earlier."""

EPSILON_S = 1e-6


@dataclass(frozen=True)
class Task:
    """One test as the schedule sees it."""

    index: int
    seconds: float
    """Expected, without flashing."""
    firmware: str | None
    fits: frozenset[str]
    """Ids of the slots it may run on; never empty."""


@dataclass
class Lane:
    """One slot: when it is free, what is on its board then, and what it is to do."""

    slot: str
    free_at: float = 0.0
    firmware: str | None = None
    tasks: list[Task] = field(default_factory=list)

    def flashes(self, tasks: Iterable[Task] | None = None) -> int:
        """Return how many flashes `tasks` (default: its own) cost here when equal firmware comes together."""
        wanted = {task.firmware for task in (self.tasks if tasks is None else tasks)}
        return len(wanted - {None, self.firmware})

    def end(self, flash_s: float, tasks: Sequence[Task] | None = None) -> float:
        """Return when it is done with `tasks` (default: its own)."""
        tasks = self.tasks if tasks is None else tasks
        return self.free_at + sum(task.seconds for task in tasks) + flash_s * self.flashes(tasks)


def distribute(tasks: Sequence[Task], lanes: Sequence[Lane], flash_s: float) -> None:
    """Give every task to one of the lanes it fits, and order each lane: equal firmware together, long ones first."""
    best = _listed(tasks, lanes, flash_s)
    low, high = _least_end(tasks, lanes), _last_end(best, lanes, flash_s)
    start = min(lane.free_at for lane in lanes)  # Of a clock that may have begun long ago.
    for _ in range(HALVINGS):
        if high - low <= (high - start) * PRECISION:
            break
        middle = (low + high) / 2
        packed = _packed(tasks, lanes, flash_s, middle)
        if packed is None:
            low = middle
        else:
            best, high = packed, _last_end(packed, lanes, flash_s)
    for lane in lanes:
        lane.tasks = best[lane.slot]
    _improve(lanes, flash_s)
    for lane in lanes:
        lane.tasks = ordered(lane.tasks, lane.firmware)


def ordered(tasks: Iterable[Task], firmware: str | None) -> list[Task]:
    """Return tasks as a slot runs them: what is on the board first, the heaviest group next, no firmware at the end."""
    weight: dict[str | None, float] = defaultdict(float)
    tasks = list(tasks)
    for task in tasks:
        weight[task.firmware] += task.seconds

    def key(task: Task) -> tuple[bool, bool, float, str, float, int]:
        mine = task.firmware
        return mine is None, mine != firmware, -weight[mine], mine or "", -task.seconds, task.index

    return sorted(tasks, key=key)


Assignment = dict[str, list[Task]]


def _last_end(assignment: Assignment, lanes: Sequence[Lane], flash_s: float) -> float:
    return max(lane.end(flash_s, assignment[lane.slot]) for lane in lanes)


def _least_end(tasks: Sequence[Task], lanes: Sequence[Lane]) -> float:
    total = sum(lane.free_at for lane in lanes) + sum(task.seconds for task in tasks)
    return max(total / len(lanes), max((task.seconds for task in tasks), default=0.0))


def _listed(tasks: Sequence[Task], lanes: Sequence[Lane], flash_s: float) -> Assignment:
    """Longest first, each where it ends earliest: always possible, seldom good with flashes."""
    given: Assignment = {lane.slot: [] for lane in lanes}
    ends = {lane.slot: lane.free_at for lane in lanes}
    has: dict[str, set[str | None]] = {lane.slot: {None, lane.firmware} for lane in lanes}
    for task in sorted(tasks, key=lambda task: (-task.seconds, task.index)):
        slots = [lane.slot for lane in lanes if lane.slot in task.fits]
        cost = {slot: task.seconds + (0.0 if task.firmware in has[slot] else flash_s) for slot in slots}
        slot = min(slots, key=lambda slot: ends[slot] + cost[slot])
        ends[slot] += cost[slot]
        has[slot].add(task.firmware)
        given[slot].append(task)
    return given


def _packed(tasks: Sequence[Task], lanes: Sequence[Lane], flash_s: float, end: float) -> Assignment | None:
    """Return an assignment in which every lane is done by `end`, or None where this way of packing finds none."""
    given: Assignment = {lane.slot: [] for lane in lanes}
    room = {lane.slot: end - lane.free_at + EPSILON_S for lane in lanes}
    groups: dict[tuple[bool, str], list[Task]] = defaultdict(list)
    for task in tasks:
        groups[(task.firmware is None, task.firmware or "")].append(task)

    def urgency(group: list[Task]) -> tuple[int, float]:
        return min(len(task.fits) for task in group), -sum(task.seconds for task in group)

    # What flashes nothing fills the gaps at the end.
    for _, group in sorted(groups.items(), key=lambda item: (item[0][0], urgency(item[1]), item[0][1])):
        firmware = group[0].firmware
        opened = {lane.slot for lane in lanes if firmware is None or lane.firmware == firmware}
        left = sum(task.seconds for task in group)
        for task in sorted(group, key=lambda task: (len(task.fits), -task.seconds, task.index)):
            roomy = [slot for slot in opened if slot in task.fits and room[slot] >= task.seconds]
            if roomy:
                slot = min(roomy, key=lambda slot: (room[slot], slot))
            else:
                fresh = [slot for slot in room if slot in task.fits - opened and room[slot] >= task.seconds + flash_s]
                if not fresh:
                    return None
                # The tightest slot that takes all that is left of the group, else the emptiest.
                whole = [slot for slot in fresh if room[slot] >= left + flash_s]
                slot = min(whole, key=lambda s: (room[s], s)) if whole else max(fresh, key=lambda s: (room[s], s))
                opened.add(slot)
                room[slot] -= flash_s
            room[slot] -= task.seconds
            left -= task.seconds
            given[slot].append(task)
    return given


def _improve(lanes: Sequence[Lane], flash_s: float) -> None:
    """Move or swap single tasks away from the lane that ends last, as long as that helps."""
    for _ in range(MOVES):
        last = max(lanes, key=lambda lane: lane.end(flash_s))
        if not any(_relieve(last, other, flash_s) for other in sorted(lanes, key=lambda lane: lane.end(flash_s))):
            return


def _relieve(last: Lane, other: Lane, flash_s: float) -> bool:
    if other is last:
        return False
    before = last.end(flash_s)
    if other.end(flash_s) >= before - EPSILON_S:
        return False
    best = before - EPSILON_S
    found: tuple[list[Task], list[Task]] | None = None
    for task in last.tasks:
        if other.slot not in task.fits:
            continue
        without = [kept for kept in last.tasks if kept is not task]
        returns = [[], *([back] for back in other.tasks if last.slot in back.fits and back.seconds < task.seconds)]
        for back in returns:
            mine, theirs = without + back, [kept for kept in other.tasks if kept not in back] + [task]
            end = max(last.end(flash_s, mine), other.end(flash_s, theirs))
            if end < best:
                best, found = end, (mine, theirs)
    if found is None:
        return False
    last.tasks, other.tasks = found
    return True
