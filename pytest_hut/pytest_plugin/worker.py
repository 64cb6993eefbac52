"""The process that runs tests on one slot: an xdist worker, or the only process."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.board.hold import hold_locked_slot
from pytest_hut.board.slot import HutSlot
from pytest_hut.errors import FirmwareError, InfrastructureError, SlotBusy
from pytest_hut.events.journal import Journal
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.lease.handover import borrowed_lock
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.lease.several import HeldLocks, take_each
from pytest_hut.pytest_plugin.errands import Errand, errands
from pytest_hut.pytest_plugin.needs import facts_of, firmware_path, needs_of, tell_needs
from pytest_hut.pytest_plugin.progress import TerminalProgress
from pytest_hut.pytest_plugin.verdict import annotate, bench_failed, notes_on
from pytest_hut.recording.job import Job, cancel_flag
from pytest_hut.scheduling.health import SlotHealth
from pytest_hut.scheduling.needs import misfit, no_slot_reason

CONSOLE_TAIL = 4000
"""Characters of console shown with a failed test; the whole log is in the evidence."""


@dataclass(frozen=True)
class Seat:
    """What a worker is told about its place in the session. Plain data, so that it can cross a process boundary."""

    slot: str
    session_slots: list[str]
    """Those of all workers, in order."""
    worker: str = ""
    """xdist's name of the worker; empty in the only process."""
    errands: bool = False
    """Whether the scheduler of the bench hands out the tests, and errands between them."""
    lock_office: str = ""
    """Where the session gives out the locks it holds; empty where the worker takes them itself."""
    waited_s: dict[str, float] = field(default_factory=dict)
    """How long the session waited for each lock, in seconds."""
    failures: int = 0
    """Failures of the bench in a row that an earlier worker of the slot left behind."""


class SlotWorker:
    """Knows the slot this process holds, and holds it once a test needs it."""

    def __init__(
        self, config: pytest.Config, bench: Bench, job: Job, seat: Seat, locks: HeldLocks | None = None
    ) -> None:
        """`locks` are those that this process holds already."""
        self._config = config
        self._bench = bench
        self._job = job
        self._seat = seat
        self._own_slot = seat.slot
        self._session_slots = seat.session_slots
        self._worker = seat.worker
        self._locks = locks or HeldLocks()
        self._session: pytest.Session | None = None
        self._held: HutSlot | None = None
        self._partners: list[str] = []
        self._flash: dict[str, Any] = {}
        limit = config.getoption("hut_quarantine_after")
        self._health = {slot: SlotHealth(limit) for slot in seat.session_slots}
        self._health[seat.slot] = SlotHealth(limit, seat.failures)

    @classmethod
    def from_controller(cls, config: pytest.Config, text: str) -> SlotWorker:
        """Build it from what `input_for_worker` said in the controller's process."""
        data: dict[str, Any] = json.loads(text)
        return cls(config, Bench.model_validate_json(data["bench"]), Job(**data["job"]), Seat(**data["seat"]))

    @contextlib.contextmanager
    def hold(self, slot_id: str | None) -> Iterator[HutSlot]:
        """Hold a slot while inside, by default the worker's own; SIGTERM inside ends the session in an orderly way.

        Raises:
            InfrastructureError: it cannot be had.
        """
        slot_id, job = slot_id or self._own_slot, self._job
        journal = Journal(job.slot_journal(slot_id, self._worker))
        name = job.evidence_name(slot_id, f"console_{self._worker}" if self._worker else "console", ".log")
        progress = TerminalProgress(self._config, slot_id)
        with (
            contextlib.closing(journal),
            _orderly_end_on_sigterm(),
            self._locked(self._bench.slots[slot_id], progress) as waited_s,
            hold_locked_slot(
                self._bench.slots[slot_id],
                self._bench,
                waited_s=waited_s,
                journal=journal,
                console_log=job.path / slot_id / name,
                progress=progress,
            ) as slot,
        ):
            before, self._held = self._held, slot
            try:
                yield slot
            finally:
                self._held = before

    @contextlib.contextmanager
    def hold_team(self, item: pytest.Item, first: HutSlot) -> Iterator[list[HutSlot]]:
        """Hold, while inside, the other boards of a test that needs several; `first` comes first.

        Raises InfrastructureError where they cannot be had.
        """
        needs = needs_of(item)
        if self._seat.errands:
            partners = self._partners
        elif self._worker:
            raise InfrastructureError("hut(count=...) needs the scheduler of the bench: leave --dist alone")
        else:
            partners = [slot for slot in self.fitting_slots(item) if slot != first.id]
        if len(partners) < needs.count - 1:
            raise InfrastructureError(f"{needs.count} boards are needed, {1 + len(partners)} can be had")
        with contextlib.ExitStack() as others:
            slots = [first, *(others.enter_context(self.hold(slot)) for slot in partners[: needs.count - 1])]
            self._held = first
            yield slots

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
        fitting = [slot for slot in self._session_slots if misfit(needs, facts_of(self._bench.slots[slot])) is None]
        return fitting or self._session_slots

    def other_slot_for(self, item: pytest.Item) -> str | None:
        """Return the slot to run a test on when there is one process for all slots and its own does not fit."""
        if self._worker or self._own_slot in (fitting := self.fitting_slots(item)):
            return None
        return fitting[0]

    def require_fit(self, item: pytest.Item, slot: Slot) -> None:
        """Skip the test unless `slot` has what its `hut` markers ask for."""
        reason = misfit(needs_of(item), facts_of(slot))
        if reason is not None:
            pytest.skip(reason)

    def firmware_for(self, item: pytest.Item, slot: HutSlot) -> ImageSet:
        """Return the firmware a test wants on the board.

        Raises:
            FirmwareError: there is none, or it is unusable.
        """
        path = firmware_path(item)
        if path is not None:
            return _load(path, slot.chip)
        if slot.config.virtual:
            from pytest_hut.firmware.demo import demo_firmware

            return demo_firmware(slot.chip)
        raise FirmwareError(
            f"no firmware to flash on {slot.id}: give --hut-firmware=PATH, or mark the test hut(firmware=...)"
        )

    def pytest_collection(self, session: pytest.Session) -> None:
        """Remember the session, which is what can be stopped."""
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Without xdist, tests that no slot fits come first: what they need is to be seen at once."""
        if not self._worker:
            items.sort(key=lambda item: self._no_slot(item) is None)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Tell the controller what the tests need; take the locks in order where a test needs several boards."""
        if self._seat.errands:
            tell_needs(Path(self._job.folder), session.items)
        result = yield
        if self._seat.errands:  # Behind the tests that xdist has told its controller about.
            session.items.extend(errands(session, self._session_slots, self._own_slot, self._partners.append))
        elif not self._worker and not self._locks.locks and any(needs_of(item).count > 1 for item in session.items):
            paths = {slot: self._bench.slots[slot].lock for slot in self._session_slots}
            timeout_s = self._config.getoption("hut_lock_timeout")
            progress = TerminalProgress(self._config, "hut")
            self._locks = take_each(paths, self._job.job_id, timeout_s, progress.line)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run errands; send tests back unrun that were under way when the slot went into quarantine."""
        if isinstance(item, Errand):
            item.perform(nextitem)
            return True
        if self._seat.errands and self._health[self._own_slot].quarantined and needs_of(item).uses_slot:
            return True
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count failures of the bench as the controller does."""
        failed = bench_failed(report)
        if failed is not None:
            self._health[notes_on(report)["slot"]].note(failed)
        if report.when == "teardown":
            self._partners.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test without a slot ends here. What the board printed before a test, or a rerun, must not let it pass."""
        reason = self._no_slot(item)
        if reason is not None:
            if self._config.getoption("hut_no_slot") == "error":
                raise InfrastructureError(reason)
            pytest.skip(reason)
        needs = needs_of(item)
        slot = needs.bound_to or self._own_slot
        if needs.uses_slot and not self._seat.errands and self._health[slot].quarantined:
            raise InfrastructureError(f"{slot} is in quarantine: the bench failed too often in a row")
        if self._held is not None:
            self._held.console.mark()

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
        annotate(report, call)
        notes = notes_on(report)
        uses_slot = "hut_held_slot" in getattr(item, "fixturenames", ())
        if uses_slot and not isinstance(item, Errand) and self._no_slot(item) is None:
            notes["slot"] = self._held.id if self._held else needs_of(item).bound_to or self._own_slot
        if call.when == "setup":
            notes.update(self._flash)
            self._flash = {}
        marker = item.get_closest_marker("hw_test")
        if marker and marker.args:
            notes["hw_id"] = str(marker.args[0])
        if uses_slot and self._held is not None:
            notes["evidence"] = [str(self._held.console.log_path)]
            if report.failed:
                text = self._held.console.text_since_mark()[-CONSOLE_TAIL:]
                report.sections.append((f"console of {self._held.id} since the last reset or mark", text))
        return report

    @contextlib.contextmanager
    def _locked(self, slot: Slot, progress: TerminalProgress) -> Iterator[float]:
        """Hold the lock of a slot while inside; yields how many seconds it was waited for."""
        if slot.id in self._locks.locks:
            yield self._locks.waited_s[slot.id]
        elif slot.id in self._locks.busy:
            raise SlotBusy(self._locks.busy[slot.id])
        elif self._seat.lock_office:
            with borrowed_lock(self._seat.lock_office, slot.id):
                yield self._seat.waited_s.get(slot.id, 0.0)
        else:
            start = time.monotonic()
            timeout_s = self._config.getoption("hut_lock_timeout")
            with LockFile(slot.lock, self._job.job_id).acquire(timeout_s, progress.line):
                yield time.monotonic() - start

    def _no_slot(self, item: pytest.Item) -> str | None:
        return no_slot_reason(needs_of(item), [facts_of(self._bench.slots[slot]) for slot in self._session_slots])


def input_for_worker(bench: Bench, job: Job, seat: Seat) -> str:
    """Return the text from which `SlotWorker.from_controller` builds the worker."""
    return json.dumps({"bench": bench.model_dump_json(), "job": asdict(job), "seat": asdict(seat)})


@cache
def _load(path: Path, chip: str) -> ImageSet:
    from pytest_hut.firmware.sources import load_firmware

    return load_firmware(path, chip)


@contextlib.contextmanager
def _orderly_end_on_sigterm() -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGTERM")

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
