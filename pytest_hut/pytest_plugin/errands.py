"""What a worker does between tests because the scheduler says so.

The scheduler can only name items by their index, and xdist starts an item only when the next one is known. So each
worker has, behind the tests it collected, a few items that are no tests: one to wait on, one to let go of its board,
and one per slot to say whose board the next test uses besides its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_hut.pytest_plugin.verdict import annotate

PAUSE, LET_GO, FIRST_PARTNER = 0, 1, 2
"""Indices, counted from the number of tests; the partner errand of the k-th slot is FIRST_PARTNER + k."""


def tear_down(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tear down the fixtures that `nextitem` has no use for, though `item` did not run; only trouble is reported.

    Without the hooks of a test: other plugins would look for what only a test that ran has.
    """
    state = item.session._setupstate
    call = pytest.CallInfo.from_call(
        lambda: state.teardown_exact(nextitem), when="teardown", reraise=(pytest.exit.Exception, KeyboardInterrupt)
    )
    report = pytest.TestReport.from_item_and_call(item, call)
    annotate(report, call)
    if report.failed:
        item.ihook.pytest_runtest_logreport(report=report)


class Errand(pytest.Item):
    """An item that is never reported, unless what it tears down fails."""

    def runtest(self) -> None:
        """Never called: an errand is performed, not run."""

    def perform(self, nextitem: pytest.Item | None) -> None:
        """Do it. In a pause the worker has waited before this; at the end of a session fixtures are torn down here."""
        if nextitem is None:
            self.tear_down_all()

    def tear_down_all(self) -> None:
        """Tear down every fixture, as after the last test of a session."""
        tear_down(self, None)


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
