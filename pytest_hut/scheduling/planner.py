"""What each slot does next: a plan for all of them, taken up test by test, and changed when things go otherwise.

Time is the caller's: every method that needs it takes `now`, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pytest_hut.scheduling.distribute import EPSILON_S, Lane, Task, distribute, ordered
from pytest_hut.scheduling.needs import Needs, SlotFacts, misfit


@dataclass
class _Work:
    """A slot at work."""

    facts: SlotFacts
    queue: list[Task] = field(default_factory=list)
    hand: list[tuple[int, float]] = field(default_factory=list)
    """Tests given out and not finished, each with its expected seconds, flashing included."""
    begun_at: float = 0.0
    """When the first in `hand` began."""
    firmware: str | None = None
    """What is on the board once everything in `hand` is done."""

    def free_at(self, now: float) -> float:
        if not self.hand:
            return now
        (_, first), *rest = self.hand
        return max(now, self.begun_at + first) + sum(seconds for _, seconds in rest)

    def lane(self, now: float) -> Lane:
        return Lane(self.facts.id, self.free_at(now), self.firmware, self.queue)


class Planner:
    """Owns the tests of a session until they are done.

    `take` gives a slot its next test; tests that need several boards come from `next_team`. A slot that was dropped
    gets only tests that need no slot.
    """

    def __init__(
        self, tests: Sequence[Needs], slots: Sequence[SlotFacts], *, seconds: Sequence[float], flash_s: float
    ) -> None:
        """`seconds` are the expected durations of `tests`, without flashing; `flash_s` is what one flash takes."""
        self._tests = tests
        self._seconds = seconds
        self._flash_s = flash_s
        self._work = {slot.id: _Work(slot) for slot in slots}
        self._dropped: set[str] = set()
        self._avoid: dict[int, str] = {}
        self._waiting: set[int] = set()
        self._teams: list[int] = []

    @property
    def waiting(self) -> bool:
        """Whether any test is not given out yet."""
        return bool(self._teams or self._waiting or any(work.queue for work in self._work.values()))

    def fitting(self, index: int) -> list[str]:
        """Return the slots a test may be given to, in the order of the session."""
        needs = self._tests[index]
        return [
            slot
            for slot, work in self._work.items()
            if not needs.uses_slot
            or (slot not in self._dropped and slot != self._avoid.get(index) and misfit(needs, work.facts) is None)
        ]

    def runnable(self, index: int) -> bool:
        """Whether there are boards enough for a test."""
        needs, slots = self._tests[index], self.fitting(index)
        return len(slots) >= needs.count and (needs.bound_to is None or needs.bound_to in slots)

    def add(self, indices: Iterable[int]) -> None:
        """Take tests that wait to be run; each must be runnable. They count from the next `plan` on."""
        for index in indices:
            if self._tests[index].count > 1:
                self._teams.append(index)
            else:
                self._waiting.add(index)

    def can_try_elsewhere(self, index: int, slot: str) -> bool:
        """Whether a test that `slot` could not run may be tried once on another."""
        if index in self._avoid or self._tests[index].bound_to is not None or not self._tests[index].uses_slot:
            return False
        others = [fitting for fitting in self.fitting(index) if fitting != slot]
        return len(others) >= self._tests[index].count

    def avoid(self, index: int, slot: str) -> None:
        """Never give a test to `slot` again."""
        self._avoid[index] = slot

    def drop(self, slot: str) -> list[int]:
        """Trust a slot no more; return the waiting tests that no slot is left for, which are the caller's now."""
        self._dropped.add(slot)
        self._waiting |= {task.index for task in self._work[slot].queue}
        self._work[slot].queue.clear()
        everything = self._waiting | set(self._teams)
        everything |= {task.index for work in self._work.values() for task in work.queue}
        lost = {index for index in everything if not self.runnable(index)}
        self._waiting -= lost
        self._teams = [index for index in self._teams if index not in lost]
        for work in self._work.values():
            work.queue = [task for task in work.queue if task.index not in lost]
        return sorted(lost)

    def plan(self, now: float) -> None:
        """Spread everything that waits over the slots anew."""
        indices = self._waiting | {task.index for work in self._work.values() for task in work.queue}
        tasks = [self._task(index) for index in sorted(indices)]
        lanes = [Lane(slot, work.free_at(now), work.firmware) for slot, work in self._work.items()]
        distribute(tasks, lanes, self._flash_s)
        for lane in lanes:
            self._work[lane.slot].queue = lane.tasks
        self._waiting.clear()

    def take(self, slot: str, now: float) -> int | None:
        """Return the next test for `slot`, or None where it has nothing worth doing."""
        if self._waiting:
            self.plan(now)
        work = self._work[slot]
        task = work.queue.pop(0) if work.queue else self._taken_over(work, now)
        if task is None:
            return None
        self._hand_out(work, task.index, self._cost(task, work.firmware), now)
        work.firmware = task.firmware or work.firmware
        return task.index

    def finished(self, slot: str, index: int, now: float) -> None:
        """A test that was given to `slot` is over, however it went."""
        work = self._work[slot]
        work.hand = [(given, seconds) for given, seconds in work.hand if given != index]
        work.begun_at = now

    def forget_board(self, slot: str) -> None:
        """What is on a slot's board is not known any more."""
        self._work[slot].firmware = None

    def next_team(self, free: Iterable[str]) -> tuple[int, list[str]] | None:
        """Take a test that needs several boards and give it slots among `free`; None where none can have enough."""
        free = list(free)
        for index in self._teams:
            needs = self._tests[index]
            slots = [slot for slot in self.fitting(index) if slot in free]
            if len(slots) < needs.count or (needs.bound_to is not None and needs.bound_to not in slots):
                continue
            self._teams.remove(index)
            bound, firmware = needs.bound_to, needs.firmware
            # The least to do first; what the leader has on its board saves a flash.
            slots.sort(key=lambda slot: (slot != bound, self._work[slot].firmware != firmware, self._load(slot)))
            return index, slots[: needs.count]
        return None

    def team_begins(self, index: int, slots: Sequence[str], now: float) -> None:
        """A team's test was given to the first of `slots`; the boards of the others are used by it, too."""
        for slot in slots[1:]:
            self.forget_board(slot)
        leader = self._work[slots[0]]
        task = Task(index, self._seconds[index], self._tests[index].firmware, frozenset(slots))
        self._hand_out(leader, index, self._cost(task, leader.firmware), now)
        leader.firmware = task.firmware or leader.firmware

    def _hand_out(self, work: _Work, index: int, seconds: float, now: float) -> None:
        if not work.hand:
            work.begun_at = now
        work.hand.append((index, seconds))

    def _load(self, slot: str) -> float:
        return sum(task.seconds for task in self._work[slot].queue)

    def _task(self, index: int) -> Task:
        return Task(index, self._seconds[index], self._tests[index].firmware, frozenset(self.fitting(index)))

    def _cost(self, task: Task, firmware: str | None) -> float:
        return task.seconds + (self._flash_s if task.firmware not in (None, firmware) else 0.0)

    def _taken_over(self, work: _Work, now: float) -> Task | None:
        """Take a test from the slot that would end last, if it ends earlier here, flashing included."""
        slot = work.facts.id
        start = work.free_at(now)
        others = [other for other in self._work.values() if other is not work and other.queue]
        for other in sorted(others, key=lambda other: -other.lane(now).end(self._flash_s)):
            end = other.lane(now).end(self._flash_s)
            gains = [
                (start + self._cost(task, work.firmware), task)
                for task in other.queue
                if slot in task.fits and slot not in self._unfit(task)
            ]
            good = [(here, task) for here, task in gains if here < end - EPSILON_S]
            if good:
                # The longest that pays, so that the last ones to run are short.
                _, task = max(good, key=lambda gain: (gain[1].firmware == work.firmware, gain[1].seconds))
                other.queue = ordered((kept for kept in other.queue if kept is not task), other.firmware)
                return task
        return None

    def _unfit(self, task: Task) -> set[str]:
        return self._dropped if self._tests[task.index].uses_slot else set()
