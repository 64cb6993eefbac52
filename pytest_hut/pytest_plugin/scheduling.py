"""Which worker runs which test: a test bound to a slot goes to that slot's worker, the others to whoever is free.

Follows the protocol of xdist's schedulers (`xdist.scheduler.protocol.Scheduling`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

AHEAD = 2
"""Tests a worker has at hand: the one it runs, and the next, which decides what it tears down in between."""


class SlotScheduling:
    """Hands out tests a few at a time; keeps per slot what only that slot's worker may run."""

    def __init__(self, config: pytest.Config, slots: Sequence[str], slot_of: Callable[[Any], str]) -> None:
        """`slot_of` tells the slot of a worker node."""
        self._config = config
        self._slots = tuple(slots)
        self._slot_of = slot_of
        self._expected_nodes = len(config.getoption("tx"))
        self._collections: dict[Any, list[str]] = {}
        self._collection: list[str] | None = None
        self._running: dict[Any, list[int]] = {}
        self._bound: dict[str, deque[int]] = {slot: deque() for slot in slots}
        self._shared: deque[int] = deque()

    @property
    def nodes(self) -> list[Any]:
        """All workers that take part."""
        return list(self._running)

    @property
    def collection_is_completed(self) -> bool:
        """Whether all initial workers have collected."""
        return len(self._collections) >= self._expected_nodes

    @property
    def tests_finished(self) -> bool:
        """Whether every worker has at most its last test left, and nothing waits."""
        waiting = self._shared or any(self._bound.values())
        return self.collection_is_completed and not waiting and all(len(left) < 2 for left in self._running.values())

    @property
    def has_pending(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._shared) or any(self._bound.values()) or any(self._running.values())

    def add_node(self, node: Any) -> None:
        """Take a new worker."""
        self._running[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Take what a worker collected; it has to be what the others collected."""
        if self._collection is None or list(collection) == self._collection:
            self._collections[node] = list(collection)
        else:
            self._report_difference(node)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """A worker has finished a test."""
        del duration
        self._running[node].remove(item_index)
        self._feed(node)

    def mark_test_pending(self, item: str) -> None:
        """A test has to run again."""
        assert self._collection is not None
        self._put_back([self._collection.index(item)])
        for node in self.nodes:
            self._feed(node)

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Not used by this scheduler: it never takes work back."""
        raise NotImplementedError

    def remove_node(self, node: Any) -> str | None:
        """A worker ended; return the test it was running, if it crashed. The rest of its tests wait again."""
        left = self._running.pop(node)
        if not left:
            return None
        assert self._collection is not None
        crashed = left.pop(0)
        self._put_back(left)
        for other in self.nodes:
            self._feed(other)
        return self._collection[crashed]

    def schedule(self) -> None:
        """Begin, or go on with a worker that came later."""
        if self._collection is None:
            first, *others = self._collections.items()
            different = [node for node, collection in others if collection != first[1]]
            for node in different:
                self._report_difference(node)
            if different:
                return
            self._collection = first[1]
            self._put_back(range(len(self._collection)))
        # Round by round, so that few tests are spread over many workers.
        for count in range(1, AHEAD + 1):
            for node in self.nodes:
                self._feed(node, count, end_if_nothing=count == AHEAD)

    def _put_back(self, indices: Sequence[int]) -> None:
        assert self._collection is not None
        for index in indices:
            slot = slot_in(self._collection[index], self._slots)
            (self._shared if slot is None else self._bound[slot]).append(index)

    def _feed(self, node: Any, count: int = AHEAD, *, end_if_nothing: bool = True) -> None:
        if node.shutting_down:
            return
        own = self._bound[self._slot_of(node)]
        running = self._running[node]
        new: list[int] = []
        while len(running) + len(new) < count and (own or self._shared):
            new.append((own or self._shared).popleft())
        if new:
            running.extend(new)
            node.send_runtest_some(new)
        if end_if_nothing and not own and not self._shared:
            node.shutdown()

    def _report_difference(self, node: Any) -> None:
        self._config.hook.pytest_collectreport(
            report=pytest.CollectReport(
                nodeid=node.gateway.id,
                outcome="failed",
                longrepr=f"{node.gateway.id} collected other tests than the others; collect them in a fixed order",
                result=[],
            )
        )


def slot_in(node_id: str, slots: Sequence[str]) -> str | None:
    """Return the slot a test is bound to: the one that stands among the parameters in its node id."""
    parameters = re.search(r"\[(.*)\]$", node_id)
    if parameters is None:
        return None
    found = [slot for slot in slots if re.search(rf"(^|-){re.escape(slot)}($|-)", parameters[1])]
    return max(found, key=len, default=None)
