"""The controller's view of all slots: what they are to do, how they do, and what a failed one leaves behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import pytest

from pytest_hut.bench.places import user_state_dir
from pytest_hut.bench.quarantine import Quarantine, end_quarantine, tell_quarantine
from pytest_hut.events.types import Event, SlotQuarantined, TestMoved, utc_now
from pytest_hut.pytest_plugin.needs import NEEDS_FILE, read_needs
from pytest_hut.pytest_plugin.scheduling import SlotScheduling
from pytest_hut.pytest_plugin.verdict import AGAIN, bench_failed, is_part, kind_on, message_on, notes_on, slot_to_blame
from pytest_hut.recording.job import Job
from pytest_hut.scheduling.health import SlotHealth
from pytest_hut.scheduling.history import History, history_path
from pytest_hut.scheduling.needs import Needs, SlotFacts, no_slot_reason
from pytest_hut.scheduling.planner import Planner


class Dispatch:
    """Lives in the controller, or in the only process, of a session with slots."""

    def __init__(
        self,
        config: pytest.Config,
        job: Job,
        slots: Sequence[SlotFacts],
        emit: Callable[[Event], None],
        slot_of: Callable[[Any], str],
    ) -> None:
        """`slot_of` tells the slot of a worker node."""
        self._config = config
        self._job = job
        self._slots = list(slots)
        self._emit = emit
        self._slot_of = slot_of
        limit = config.getoption("hut_quarantine_after")
        self._health = {slot.id: SlotHealth(limit) for slot in slots}
        self._reasons: dict[str, str] = {}
        self._planner: Planner | None = None
        self._index_of: dict[str, int] = {}
        self._over: dict[str, Literal["done", "again"]] = {}
        self._rerun: set[str] = set()
        """Tests of which another plugin has begun, or will begin, another try in the same worker."""
        self._seconds: dict[str, float] = {}
        self._history = History.load(history_path(user_state_dir(), config.rootpath))

    @property
    def all_gone(self) -> str:
        """Why no slot is left, or nothing while one is."""
        if len(self._reasons) < len(self._slots):
            return ""
        return "no slot is left: " + "; ".join(f"{slot}: {reason}" for slot, reason in self._reasons.items())

    def failures_of(self, slot: str) -> int:
        """Return how many failures in a row a slot has, for a worker that takes over there."""
        return self._health[slot].failures

    def lose(self, slot: str, reason: str) -> None:
        """Put a slot in quarantine for the rest of the session."""
        if slot in self._reasons:
            return
        self._reasons[slot] = reason
        until = f"the session of job {self._job.job_id} ends"
        self._emit(SlotQuarantined(slot=slot, reason=reason, until=until))
        with contextlib.suppress(OSError):  # `hut slots` will not know; the session goes on.
            tell_quarantine(Quarantine(slot, self._job.job_id, reason, utc_now(), until, os.getpid()))
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"hut: {slot} is in quarantine for this session: {reason}", yellow=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> SlotScheduling | None:
        """Take the place of xdist's default scheduler; one that was asked for stays."""
        if config.getoption("dist") != "load":
            return None
        return SlotScheduling(config, self._slots, self._slot_of, self)

    def planner_for(self, collection: Sequence[str]) -> tuple[list[Needs], Planner]:
        """Read what the workers told; see `scheduling.Desk`."""
        needs = read_needs(self._job.path) if collection else []
        assert [need.node_id for need in needs] == list(collection)
        self._planner = Planner(
            needs,
            self._slots,
            seconds=[self._history.seconds(need.node_id) for need in needs],
            flash_s=self._history.flash_s,
        )
        self._index_of = {need.node_id: index for index, need in enumerate(needs)}
        for slot in self._reasons:
            self._planner.drop(slot)
        return needs, self._planner

    def not_run(self, needs: Needs) -> None:
        """Report a test that no slot is left for, as chosen with `--hut-no-slot`, or as the fault of lost slots."""
        reason = no_slot_reason(needs, self._slots)
        lost = reason is None
        if reason is None:
            left = [slot for slot in self._slots if slot.id not in self._reasons]
            lack = no_slot_reason(needs, left) if left else None
            gone = "; ".join(f"{slot} is in quarantine ({why})" for slot, why in self._reasons.items())
            reason = f"{lack or 'no slot for it'}; {gone}"
        file = needs.node_id.split("::")[0]
        location = (file, None, needs.node_id.removeprefix(f"{file}::").replace("::", "."))
        failed = lost or self._config.getoption("hut_no_slot") == "error"
        hook = self._config.hook
        hook.pytest_runtest_logstart(nodeid=needs.node_id, location=location)
        phases: tuple[Literal["setup", "teardown"], ...] = ("setup", "teardown")
        for when in phases:
            first = when == "setup"
            report = pytest.TestReport(
                nodeid=needs.node_id,
                location=location,
                keywords={},
                outcome=("failed" if failed else "skipped") if first else "passed",
                longrepr=(f"infrastructure: {reason}" if failed else (file, 0, f"Skipped: {reason}"))
                if first
                else None,
                when=when,
            )
            if first:
                notes_on(report).update(message=reason, **({"kind": "infrastructure"} if failed else {}))
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=needs.node_id, location=location)

    def outcome(self, node_id: str) -> Literal["done", "again"] | None:
        """Say how a test ended, once; see `scheduling.Desk`."""
        return self._over.pop(node_id, None)

    def quarantined(self, slot: str) -> bool:
        """Whether the session uses a slot no more."""
        return slot in self._reasons

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Decide whether a failure of the bench is the last word, and how the slot does."""
        node_id, notes = report.nodeid, notes_on(report)
        if is_part(report):
            if kind_on(report) == "infrastructure":
                report.outcome = AGAIN  # type: ignore[assignment]  # The report of the test has the last word.
            return
        flash_s = notes.get("flash_s", 0.0) if notes.get("flash_written") else 0.0
        if flash_s:
            self._history.note_flash(flash_s)
        if report.when == "setup":  # A new try: what an earlier one came to counts no more.
            self._over.pop(node_id, None)
            self._rerun.discard(node_id)
        if report.outcome == AGAIN:
            self._rerun.add(node_id)
        else:
            self._judge(report, notes)
            if report.when == "teardown" and report.failed and self._over.get(node_id) == "again":
                notes["moved"] = True  # The whole try does not count.
                report.outcome = AGAIN  # type: ignore[assignment]
        if report.when == "call":
            self._seconds[node_id] = self._seconds.get(node_id, 0.0) + report.duration
            if report.passed:
                self._history.note(node_id, self._seconds[node_id])
        elif report.when == "setup":
            self._seconds[node_id] = max(0.0, report.duration - flash_s)
        if report.when == "teardown" and node_id in self._index_of and node_id not in self._rerun:
            self._over.setdefault(node_id, "done")

    def _judge(self, report: pytest.TestReport, notes: dict[str, Any]) -> None:
        failed, slot = bench_failed(report), slot_to_blame(report)
        if failed is None or slot not in self._health:
            return
        if self._health[slot].note(report.nodeid, failed):
            count = self._health[slot].failures
            self.lose(slot, f"the bench failed {count} times in a row, last: {message_on(report)}")
        index = self._index_of.get(report.nodeid)
        if failed and report.when != "teardown" and index is not None and self._planner is not None:
            if self._config.getoption("maxfail"):
                return  # Whoever wants to stop at a failure gets it at once.
            if self._planner.can_try_elsewhere(index, slot):
                self._over[report.nodeid] = "again"
                self._planner.avoid(index, slot)
                self._emit(TestMoved(slot=slot, node_id=report.nodeid, reason=message_on(report)))
                notes["moved"] = True
                report.outcome = AGAIN  # type: ignore[assignment]

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Any, Any]:
        """Name the slot on every line, and tell trouble of the bench from failures of the product."""
        status = yield
        if not isinstance(report, pytest.TestReport) or status is None:
            return status
        category, letter, word = status
        notes = vars(report).get("hut", {})
        if report.failed and kind_on(report) == "infrastructure":
            category, letter, word = "error", "E", "INFRASTRUCTURE ERROR"
        elif notes.get("moved"):
            category, letter, word = AGAIN, "R", "TRIED ELSEWHERE"
        slot = notes.get("slot") or (self._slot_of(report.node) if hasattr(report, "node") and word else "")
        if slot and word:
            word = (f"{word[0]} [{slot}]", word[1]) if isinstance(word, tuple) else f"{word} [{slot}]"
        return category, letter, word

    def finish(self) -> None:
        """Keep what was learned, and end what held for the session only."""
        with contextlib.suppress(OSError):  # The next session plans with what was known before.
            self._history.save()
        for slot in self._reasons:
            end_quarantine(slot)
        (self._job.path / NEEDS_FILE).unlink(missing_ok=True)
