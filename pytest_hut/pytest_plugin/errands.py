"""What a worker does between tests because the scheduler says so.

The scheduler can only name items by their index, and xdist starts an item only when the next one is known. So each
worker has, behind the tests it collected, a few items that are no tests: one to wait on, one to let go of its board,
and one per slot to say whose board the next test uses besides its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _pytest.runner import runtestprotocol

PAUSE, LET_GO, FIRST_PARTNER = 0, 1, 2
"""Indices, counted from the number of tests; the partner errand of the k-th slot is FIRST_PARTNER + k."""


class Errand(pytest.Item):
    """An item that is never reported, unless what it tears down fails."""

    def runtest(self) -> None:
        """Nothing: what it does is what comes with running it."""

    def perform(self, nextitem: pytest.Item | None) -> None:
        """Do it. In a pause the worker has waited before this; at the end of a session fixtures are torn down here."""
        if nextitem is None:
            self.tear_down_all()

    def tear_down_all(self) -> None:
        """Tear down every fixture, as after the last test of a session."""
        for report in runtestprotocol(self, log=False, nextitem=None):
            if report.failed:
                self.ihook.pytest_runtest_logreport(report=report)


class LetGo(Errand):
    """Give the board back to the session without ending the worker."""

    def perform(self, nextitem: pytest.Item | None) -> None:
        del nextitem
        self.tear_down_all()


class Partner(Errand):
    """Tell the worker a slot that the next test may use, too."""

    tell: Callable[[], None]

    def perform(self, nextitem: pytest.Item | None) -> None:
        del nextitem
        self.tell()


def errands(session: pytest.Session, slots: list[str], own_slot: str, partner: Callable[[str], None]) -> list[Errand]:
    """Return the errands of a worker, in the order of their indices."""
    made: list[Errand] = [
        Errand.from_parent(session, name=f"release of {own_slot}"),
        LetGo.from_parent(session, name=f"lending of {own_slot}"),
    ]
    for slot in slots:
        errand: Partner = Partner.from_parent(session, name=f"together with {slot}")
        errand.tell = lambda slot=slot: partner(slot)  # type: ignore[misc]
        made.append(errand)
    return made
