"""The process that runs tests on one slot: an xdist worker, or the only process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.board.slot import HutSlot
from pytest_hut.contracts.guardrails import cancel_flag
from pytest_hut.errors import InfrastructureError
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.lease.several import HeldLocks
from pytest_hut.pytest_plugin.errands import Errand, errands, tear_down
from pytest_hut.pytest_plugin.firmware_choice import firmware_for, load_flashing
from pytest_hut.pytest_plugin.holder import SlotHolder
from pytest_hut.pytest_plugin.needs import facts_of, needs_of, tell_needs
from pytest_hut.pytest_plugin.seat import Seat, read_input
from pytest_hut.pytest_plugin.verdict import annotate, bench_failed, distrust_xfail, is_part, notes_on, slot_to_blame
from pytest_hut.recording.job import Job
from pytest_hut.scheduling.health import SlotHealth
from pytest_hut.scheduling.needs import misfit, no_slot_reason

CONSOLE_TAIL = 4000
"""Characters of console shown with a failed test; the whole log is in the evidence."""


class SlotWorker:
    """Knows the slot this process is for; holds it once a test needs it, and tells how its tests went on it."""

    def __init__(self, config: pytest.Config, bench: Bench, job: Job, seat: Seat, locks: HeldLocks) -> None:
        """`locks` are those that this process holds already."""
        self._config = config
        self._bench = bench
        self._job = job
        self._seat = seat
        self._facts = {slot: facts_of(bench.slots[slot]) for slot in seat.session_slots}
        self._holder = SlotHolder(config, bench, job, seat, locks)
        self._session: pytest.Session | None = None
        self._unfit: str | None = None
        """Why no slot fits the running test, None where one does."""
        self._partners: list[str] = []
        """The other slots that the running test may use."""
        self._announced: list[str] = []
        """Those that the next test may use."""
        self._flash: dict[str, Any] = {}
        self._failed_parts: list[dict[str, Any]] = []
        """Notes on the subtests of the running test that failed."""
        limit = config.getoption("hut_quarantine_after")
        self._health = {slot: SlotHealth(limit) for slot in seat.session_slots}
        self._health[seat.slot] = SlotHealth(limit, seat.failures)

    @classmethod
    def from_controller(cls, config: pytest.Config, text: str) -> SlotWorker:
        """Build it from what `input_for_worker` said in the controller's process."""
        return cls(config, *read_input(text), HeldLocks())

    def hold(self, slot_id: str | None) -> AbstractContextManager[HutSlot]:
        """Hold a slot, by default the worker's own; see `SlotHolder.hold`."""
        return self._holder.hold(slot_id or self._seat.slot)

    def hold_team(self, item: pytest.Item, first: HutSlot) -> AbstractContextManager[list[HutSlot]]:
        """Hold the other boards of a test that needs several; `first` comes first.

        Raises InfrastructureError where they cannot be had.
        """
        count = needs_of(item).count
        if self._seat.errands:
            partners = self._partners
        elif self._seat.worker:
            raise InfrastructureError("hut(count=...) needs the scheduler of the bench: leave --dist alone")
        else:
            partners = [slot for slot in self.fitting_slots(item) if slot != first.id]
        if len(partners) < count - 1:
            raise InfrastructureError(f"{count} boards are needed, {1 + len(partners)} can be had")
        return self._holder.hold_team(first, partners[: count - 1])

    def firmware_for(self, item: pytest.Item, slot: HutSlot) -> ImageSet:
        """Return the firmware a test wants on the board; see `firmware_choice`."""
        return firmware_for(item, slot, self._bench.firmware, self._seat.commit)

    @contextlib.contextmanager
    def timing_flash(self, slot: HutSlot) -> Iterator[None]:
        """Note how long what happens inside takes: it is no part of the test's own duration."""
        start = time.monotonic()
        try:
            yield
        finally:
            written = slot.firmware is not None and slot.firmware.flash.written
            self._flash = {"flash_s": round(time.monotonic() - start, 3), "flash_written": written}

    def fitting_slots(self, item: pytest.Item) -> list[str]:
        """Return the slots of the session that have what a test asks for; all of them if none has."""
        needs = replace(needs_of(item), uses_slot=True, bound_to=None)
        fitting = [slot for slot, facts in self._facts.items() if misfit(needs, facts) is None]
        return fitting or self._seat.session_slots

    def other_slot_for(self, item: pytest.Item) -> str | None:
        """Return the slot to run a test on when there is one process for all slots and its own does not fit."""
        if self._seat.worker or self._seat.slot in (fitting := self.fitting_slots(item)):
            return None
        return fitting[0]

    def require_fit(self, item: pytest.Item, slot: Slot) -> None:
        """Skip the test unless `slot` has what its `hut` markers ask for."""
        reason = misfit(needs_of(item), facts_of(slot))
        if reason is not None:
            pytest.skip(reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """What cannot be understood in a test's markers is an error of the collection, in a sentence."""
        report = yield
        try:
            for item in report.result or ():
                if isinstance(item, pytest.Item):
                    needs_of(item)
        except pytest.Collector.CollectError as error:
            report.outcome, report.longrepr, report.result = "failed", str(error), []
        return report

    def pytest_collection(self, session: pytest.Session) -> None:
        """Remember the session, which is what can be stopped."""
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Without xdist, tests that no slot fits come first: what they need is to be seen at once."""
        if not self._seat.worker:
            items.sort(key=lambda item: self._no_slot(item) is None)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Tell the controller what the tests need, and get ready for them."""
        if any("flashed_firmware" in getattr(item, "fixturenames", ()) for item in session.items):
            # While the slot is taken and its port opened; nobody waits for it.
            threading.Thread(target=load_flashing, name="hut-load-flashing", daemon=True).start()
        if self._seat.errands:
            tell_needs(self._job.path, session.items)
        result = yield
        if self._seat.errands:  # Behind the tests that xdist has told its controller about.
            session.items.extend(errands(session, self._seat.session_slots, self._seat.slot, self._announce))
        elif not self._seat.worker and any(needs_of(item).count > 1 for item in session.items):
            self._holder.take_all_locks()
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run errands; send tests back unrun that were under way when the slot went into quarantine."""
        if isinstance(item, Errand):
            item.perform(nextitem)
            return True
        self._unfit = self._no_slot(item)
        # Not at the test's end: other plugins may run it again.
        self._partners, self._announced = self._announced, []
        if self._seat.errands and self._health[self._seat.slot].quarantined and needs_of(item).uses_slot:
            tear_down(item, nextitem)  # The test before left what this one was to share with it.
            return True
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test without a slot ends here. What the board printed before a test, or a rerun, must not let it pass."""
        if self._unfit is not None:
            if self._config.getoption("hut_no_slot") == "error":
                raise InfrastructureError(self._unfit)
            pytest.skip(self._unfit)
        needs = needs_of(item)
        slot = needs.bound_to or self._seat.slot
        if needs.uses_slot and not self._seat.errands and self._health[slot].quarantined:
            raise InfrastructureError(f"{slot} is in quarantine: the bench failed too often in a row")
        if self._holder.held is not None:
            self._holder.held.console.mark()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Fail a test because of the bench where the bench, and nothing else, failed its subtests."""
        self._failed_parts = []
        result = yield
        if self._failed_parts and all(notes["kind"] == "infrastructure" for notes in self._failed_parts):
            raise InfrastructureError(self._failed_parts[0]["message"])
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count failures of the bench as the controller does."""
        if is_part(report):
            if "kind" in notes_on(report):
                self._failed_parts.append(notes_on(report))
            return
        failed, slot = bench_failed(report), slot_to_blame(report)
        if failed is not None and slot is not None:
            self._health[slot].note(report.nodeid, failed)

    def pytest_runtest_logfinish(self) -> None:
        """Between tests, see whether somebody wants the job to end."""
        if cancel_flag(self._job.job_id).exists() and self._session is not None:
            self._session.shouldstop = f"cancelled by {cancel_flag(self._job.job_id)}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note on the report what the session's report wants to know."""
        report = yield
        if not any("raises" in marker.kwargs for marker in item.iter_markers("xfail")):
            distrust_xfail(report, call)
        annotate(report, call)
        notes, held = notes_on(report), self._holder.held
        uses_slot = "hut_held_slot" in getattr(item, "fixturenames", ())
        if uses_slot and self._unfit is None:
            notes["slot"] = held.id if held else needs_of(item).bound_to or self._seat.slot
        if report.failed and self._holder.failed_partner is not None:
            notes["failed_slot"] = self._holder.failed_partner
        self._holder.failed_partner = None
        if call.when == "setup":
            notes.update(self._flash)
            self._flash = {}
        marker = item.get_closest_marker("hw_test")
        if marker and marker.args:
            notes["hw_id"] = str(marker.args[0])
        if uses_slot:
            notes["evidence"] = [str(board.console.log_path) for board in self._holder.boards]
        if uses_slot and report.failed:
            for board in self._holder.boards:
                text = board.console.text_since_mark()[-CONSOLE_TAIL:]
                report.sections.append((f"console of {board.id} since the last reset or mark", text))
        return report

    def _announce(self, slot: str) -> None:
        self._announced.append(slot)

    def _no_slot(self, item: pytest.Item) -> str | None:
        return no_slot_reason(needs_of(item), list(self._facts.values()))
