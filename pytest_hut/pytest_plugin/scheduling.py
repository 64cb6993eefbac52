"""The protocol of xdist's schedulers, on top of the planner: what it decides goes to the slots' workers.

A worker starts a test only when it knows what comes next. It has at most one test ahead; where there is none, a pause
is sent, in which it waits with its board held and can still get more: a test that another slot could not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pytest

from pytest_hut.pytest_plugin.errands import FIRST_PARTNER, LET_GO, PAUSE
from pytest_hut.pytest_plugin.options import worker_count
from pytest_hut.scheduling.needs import Needs, SlotFacts
from pytest_hut.scheduling.planner import Planner


class Desk(Protocol):
    """What the scheduler asks, and tells, the rest of the controller."""

    def planner_for(self, collection: Sequence[str]) -> tuple[list[Needs], Planner]:
        """Return what the collected tests need, and a planner for them."""

    def not_run(self, needs: Needs) -> None:
        """Report a test that no slot is left for."""

    def outcome(self, node_id: str) -> Literal["done", "again"] | None:
        """Say how a test went that a worker is through with: None where it was sent back unrun."""

    def quarantined(self, slot: str) -> bool:
        """Whether a slot is not to be used any more."""


@dataclass
class _Team:
    """Slots that come together for one test; the first one's worker runs it."""

    index: int
    slots: list[str]
    asked: set[Any] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    begun: bool = False


class SlotScheduling:
    """Hands out tests one ahead; see `xdist.scheduler.protocol.Scheduling`."""

    def __init__(
        self, config: pytest.Config, slots: Sequence[SlotFacts], slot_of: Callable[[Any], str], desk: Desk
    ) -> None:
        """`slot_of` tells the slot of a worker node."""
        self.config = config
        """Named so in all of xdist's schedulers; pytest-rerunfailures reads it."""
        self._slots = [slot.id for slot in slots]
        self._slot_of = slot_of
        self._desk = desk
        self._expected_nodes = worker_count(config)
        self._collections: dict[Any, list[str]] = {}
        self._collection: list[str] | None = None
        self._differs = False
        self._needs: list[Needs] = []
        self._planner: Planner | None = None
        self._hands: dict[Any, list[int]] = {}
        """What each worker was sent and has not finished; errands count from the number of tests."""
        self._teams: list[_Team] = []
        self._dropped: set[str] = set()

    @property
    def nodes(self) -> list[Any]:
        """All workers that take part."""
        return list(self._hands)

    @property
    def collection_is_completed(self) -> bool:
        """Whether all initial workers have collected."""
        return len(self._collections) >= self._expected_nodes

    @property
    def tests_finished(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self._differs or (self._planner is not None and not self.has_pending)

    @property
    def has_pending(self) -> bool:
        """Whether any test runs or waits."""
        if self._planner is None:
            return False
        return self._planner.waiting or bool(self._teams) or any(self._tests_of(node) for node in self._hands)

    def add_node(self, node: Any) -> None:
        """Take a new worker."""
        self._hands[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Take what a worker collected; it has to be what the others collected."""
        if self._collection is None or list(collection) == self._collection:
            self._collections[node] = list(collection)
        else:
            self._report_difference(node)
            self._differs = True  # It can do nothing, and what only its slot can do would be waited for in vain.

    def schedule(self) -> None:
        """Begin, or go on with a worker that came later."""
        if self._collection is None:
            first, *others = self._collections.items()
            different = [node for node, collection in others if collection != first[1]]
            for node in different:
                self._report_difference(node)
            if different:
                self._differs = True
                return
            self._collection = first[1]
            self._needs, self._planner = self._desk.planner_for(self._collection)
            self._put_back(range(len(self._needs)))
        self._feed_all()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """A worker has finished a test, or an errand."""
        del duration
        self._hands[node].remove(item_index)
        errand = item_index - self._count
        if errand < 0:
            self._test_over(node, item_index)
        elif errand == LET_GO:
            for team in self._teams:
                if node in team.asked:
                    team.free.add(self._slot_of(node))
        self._feed_all()

    def mark_test_pending(self, item: str) -> None:
        """A test has to run again."""
        assert self._collection is not None
        self._put_back([self._collection.index(item)])
        self._feed_all()

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Not used by this scheduler: it never takes work back."""
        raise NotImplementedError

    def remove_node(self, node: Any) -> str | None:
        """A worker ended; return the test it was running, if it crashed. The rest of its tests wait again."""
        hand = self._hands.pop(node)
        if self._planner is None or self._collection is None:
            return None
        slot = self._slot_of(node)
        tests = [index for index in hand if index < self._count]
        # A test at the head runs once something came behind it.
        running = tests.pop(0) if len(hand) > 1 and hand[0] < self._count else None
        for index in [*tests, *([running] if running is not None else [])]:
            self._planner.finished(slot, index, time.monotonic())
        self._planner.forget_board(slot)
        for team in self._teams:
            team.asked.discard(node)
        self._teams = [team for team in self._teams if not (team.begun and team.slots[0] == slot)]
        # One that it was through with when it died, without having said so, has not crashed.
        outcome = self._desk.outcome(self._collection[running]) if running is not None else None
        if running is not None and outcome == "again":
            tests.append(running)
        self._put_back(tests)
        self._feed_all()
        return None if running is None or outcome is not None else self._collection[running]

    @property
    def _count(self) -> int:
        return len(self._needs)

    def _tests_of(self, node: Any) -> list[int]:
        return [index for index in self._hands[node] if index < self._count]

    def _test_over(self, node: Any, index: int) -> None:
        assert self._planner is not None
        slot = self._slot_of(node)
        self._planner.finished(slot, index, time.monotonic())
        self._teams = [team for team in self._teams if not (team.begun and team.index == index)]
        outcome = self._desk.outcome(self._needs[index].node_id)
        for gone in self._slots:  # A test on several boards can be the end of another's slot.
            if self._desk.quarantined(gone) and gone not in self._dropped:
                self._drop(gone)
        # Only a slot in quarantine sends tests back; elsewhere a plugin ran the test in its own, silent way.
        if outcome == "again" or (outcome is None and slot in self._dropped):
            self._put_back([index])

    def _drop(self, slot: str) -> None:
        assert self._planner is not None
        self._dropped.add(slot)
        lost = self._planner.drop(slot)
        broken = [team for team in self._teams if slot in team.slots and not team.begun]
        self._teams = [team for team in self._teams if team not in broken]
        for index in lost:
            self._desk.not_run(self._needs[index])
        self._put_back([team.index for team in broken])

    def _put_back(self, indices: Sequence[int]) -> None:
        """Have tests wait, or report them where no slot is left for them."""
        assert self._planner is not None
        for index in indices:
            if self._planner.runnable(index):
                self._planner.add([index])
            else:
                self._desk.not_run(self._needs[index])

    def _feed_all(self) -> None:
        if self._planner is None:
            return
        self._advance_teams(self._planner)
        reserved = {slot for team in self._teams for slot in team.slots}
        for node in self.nodes:
            if not node.shutting_down and node in self._collections:
                self._feed(self._planner, node, self._slot_of(node) in reserved)

    def _feed(self, planner: Planner, node: Any, reserved: bool) -> None:
        hand = self._hands[node]
        pause = self._count + PAUSE
        idle, slot, now = self._idle(node), self._slot_of(node), time.monotonic()
        if not idle and not (len(hand) == 1 and hand[0] < self._count):
            return
        first = None if reserved else planner.take(slot, now)
        if idle and first is None:
            return
        new = [pause if first is None else first]
        if idle:
            second = planner.take(slot, now)
            new.append(pause if second is None else second)
        self._send(node, new)

    def _idle(self, node: Any) -> bool:
        return self._hands[node] in ([], [self._count + PAUSE])

    def _send(self, node: Any, indices: list[int]) -> None:
        self._hands[node].extend(indices)
        node.send_runtest_some(indices)

    def _advance_teams(self, planner: Planner) -> None:
        """Bring slots together: none of them gets new work, all come to rest, the helpers let go, the first begins."""
        node_of = {
            self._slot_of(node): node for node in self.nodes if not node.shutting_down and node in self._collections
        }
        reserved = {slot for team in self._teams for slot in team.slots}
        while picked := planner.next_team(slot for slot in self._slots if slot not in reserved):
            self._teams.append(_Team(*picked))
            reserved.update(picked[1])
        for team in self._teams:
            if team.begun or not all(slot in node_of and self._idle(node_of[slot]) for slot in team.slots):
                continue
            leader, *helpers = team.slots
            for slot in helpers:
                if node_of[slot] not in team.asked:
                    team.asked.add(node_of[slot])
                    team.free.discard(slot)
                    self._send(node_of[slot], [self._count + LET_GO, self._count + PAUSE])
            if team.free >= set(helpers):
                team.begun = True
                partners = [self._count + FIRST_PARTNER + self._slots.index(slot) for slot in helpers]
                planner.team_begins(team.index, team.slots, time.monotonic())
                self._send(node_of[leader], [*partners, team.index, self._count + PAUSE])

    def _report_difference(self, node: Any) -> None:
        self.config.hook.pytest_collectreport(
            report=pytest.CollectReport(
                nodeid=node.gateway.id,
                outcome="failed",
                longrepr=f"{node.gateway.id} collected other tests than the others; collect them in a fixed order",
                result=[],
            )
        )
