"""What came of each test: one event when it begins, and one once its last phase is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_hut.events.types import Event, TestFinished, TestStarted
from pytest_hut.pytest_plugin.verdict import AGAIN, PHASES, is_part, kind_on, message_on, notes_on

_Key = tuple[str, str]
"""A test and the worker that runs it: with `--dist=each` all run the same at the same time."""


class Outcomes:
    """Listens to the reports of all tests; emits `TestStarted` and `TestFinished`."""

    def __init__(
        self, emit: Callable[[Event], None], slot_of: Callable[[Any], str], shown: Callable[[Path], str]
    ) -> None:
        """`slot_of` tells the slot of a worker node, `shown` a path as the report names it."""
        self._emit = emit
        self._slot_of = slot_of
        self._shown = shown
        self._failed_phase: dict[_Key, pytest.TestReport] = {}
        self._seen: dict[_Key, pytest.TestReport] = {}
        self._durations: dict[_Key, float] = {}
        self._not_over: set[_Key] = set()
        """Tests whose last report was not the last word: another slot, or another try, will have it."""
        self._kinds: set[str | None] = set()

    @property
    def only_bench_failed(self) -> bool:
        """Whether tests failed, and none of them because of the product."""
        return self._kinds == {"infrastructure"}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins, so that a session that is killed can tell what it was doing."""
        self._emit(TestStarted(node_id=nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of a test."""
        key = _key(report)
        if is_part(report):
            if report.failed:
                self._failed_phase.setdefault(key, report)
            return
        if report.when == "setup":
            self._not_over.discard(key)
        if report.outcome == AGAIN:
            self._not_over.add(key)
        if report.when == "teardown" and key in self._not_over:
            self._not_over.discard(key)
            self._durations.pop(key, None)
            self._seen.pop(key, None)
            self._failed_phase.pop(key, None)
            return
        if report.outcome == AGAIN:
            return
        self._durations[key] = self._durations.get(key, 0.0) + report.duration
        if report.when == "call" or not report.passed:
            self._seen.setdefault(key, report)
        if report.failed:
            self._failed_phase.setdefault(key, report)
        if report.when not in ("setup", "call"):  # teardown, or xdist's `???` for a crashed worker
            self._finish(report)

    def _finish(self, last: pytest.TestReport) -> None:
        key = _key(last)
        report = self._failed_phase.pop(key, None) or self._seen.get(key, last)
        self._seen.pop(key, None)
        outcome, kind = _outcome_of(report)
        self._kinds |= {kind} if report.failed else set()
        node = getattr(last, "node", None)
        notes = notes_on(report)
        slot = notes.get("slot", "") or (self._slot_of(node) if node is not None and outcome == "crashed" else "")
        self._emit(
            TestFinished(
                slot=slot,
                node_id=last.nodeid,
                hw_id=notes.get("hw_id"),
                outcome=outcome,
                kind=kind,
                duration_s=self._durations.pop(key, 0.0),
                message=message_on(report),
                worker=node.gateway.id if node is not None else "",
                evidence=[self._shown(Path(path)) for path in notes.get("evidence", ())],
            )
        )


def _key(report: pytest.TestReport) -> _Key:
    node = getattr(report, "node", None)
    return report.nodeid, node.gateway.id if node is not None else ""


def _outcome_of(report: pytest.TestReport) -> tuple[str, str | None]:
    if report.failed:
        if report.when not in PHASES:
            return "crashed", kind_on(report)
        return ("failed" if report.when == "call" else "error"), kind_on(report) or "product"
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped:
        return ("xfailed" if expected_failure else "skipped"), None
    return ("xpassed" if expected_failure else "passed"), None
