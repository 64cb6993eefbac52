"""The process that runs tests on one slot: an xdist worker, or the only process."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_hut.bench.models import Bench, FirmwareTable, Slot
from pytest_hut.board.hold import hold_slot
from pytest_hut.board.slot import HutSlot
from pytest_hut.contracts.guardrails import cancel_flag
from pytest_hut.errors import ConfigError, FirmwareError
from pytest_hut.events.journal import Journal
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.pytest_plugin.progress import TerminalProgress
from pytest_hut.pytest_plugin.verdict import annotate, notes_on
from pytest_hut.recording.job import Job

CONSOLE_TAIL = 4000
"""Characters of console shown with a failed test; the whole log is in the evidence."""


class SlotWorker:
    """Knows the slot this process holds, and holds it once a test needs it."""

    def __init__(
        self,
        config: pytest.Config,
        bench: Bench,
        slot_id: str,
        session_slots: list[str],
        job: Job,
        worker: str,
        commit: str | None,
    ) -> None:
        """`slot_id` is this worker's own slot, `session_slots` are those of all workers.

        `commit` is the only one whose firmware may be flashed, None where that does not matter.
        """
        self._config = config
        self._bench = bench
        self._own_slot = slot_id
        self._session_slots = session_slots
        self._job = job
        self._worker = worker
        self._commit = commit
        self._session: pytest.Session | None = None
        self._held: HutSlot | None = None

    @classmethod
    def from_controller(cls, config: pytest.Config, text: str) -> SlotWorker:
        """Build it from what `input_for_worker` said in the controller's process."""
        data: dict[str, Any] = json.loads(text)
        job = Job(**data["job"])
        bench = Bench.model_validate_json(data["bench"])
        return cls(config, bench, data["slot"], data["session_slots"], job, data["worker"], data["commit"])

    @contextlib.contextmanager
    def hold(self, slot_id: str | None) -> Iterator[HutSlot]:
        """Hold a slot while inside, by default the worker's own; SIGTERM inside ends the session in an orderly way.

        Raises:
            InfrastructureError: it cannot be had.
        """
        slot_id, job = slot_id or self._own_slot, self._job
        journal = Journal(job.slot_journal(slot_id, self._worker))
        name = job.evidence_name(slot_id, f"console_{self._worker}" if self._worker else "console", ".log")
        with (
            contextlib.closing(journal),
            _orderly_end_on_sigterm(),
            hold_slot(
                self._bench.slots[slot_id],
                self._bench,
                job=job.job_id,
                lock_timeout_s=self._config.getoption("hut_lock_timeout"),
                journal=journal,
                console_log=job.path / slot_id / name,
                progress=TerminalProgress(self._config, slot_id),
            ) as slot,
        ):
            slot.flash_mode = self._config.getoption("hut_flash")
            self._held = slot
            try:
                yield slot
            finally:
                self._held = None

    def fitting_slots(self, item: pytest.Item) -> list[str]:
        """Return the slots of the session that have what a test asks for; all of them if none has."""
        fitting = [slot_id for slot_id in self._session_slots if _misfit(item, self._bench.slots[slot_id]) is None]
        return fitting or self._session_slots

    def require_fit(self, item: pytest.Item, slot: Slot) -> None:
        """Skip the test unless `slot` has what its `hut` markers ask for."""
        misfit = _misfit(item, slot)
        if misfit is not None:
            pytest.skip(misfit)

    def firmware_for(self, item: pytest.Item, slot: HutSlot) -> ImageSet:
        """Return the firmware a test wants on the board.

        Raises:
            FirmwareError: there is none, or it is unusable.
            ConfigError: the test names one, but only that of a commit may be flashed.
        """
        marker = next((m for m in item.iter_markers("hut") if "firmware" in m.kwargs), None)
        if self._commit is not None:
            if marker is not None:
                raise ConfigError(
                    f"the test wants the firmware {marker.kwargs['firmware']}, but this session flashes that of "
                    f"commit {self._commit} and no other; leave the test or --hut-commit out"
                )
            return _stored(self._bench.firmware, self._commit, slot.chip)
        if marker is not None:
            return _load(item.path.parent / str(marker.kwargs["firmware"]), slot.chip)
        option: str | None = self._config.getoption("hut_firmware")
        if option:
            return _load(self._config.invocation_params.dir / option, slot.chip)
        if slot.config.virtual:
            from pytest_hut.firmware.demo import demo_firmware

            return demo_firmware(slot.chip)
        raise FirmwareError(
            f"no firmware to flash on {slot.id}: give --hut-firmware=PATH, or mark the test hut(firmware=...)"
        )

    def pytest_collection(self, session: pytest.Session) -> None:
        """Remember the session, which is what can be stopped."""
        self._session = session

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Load what flashing needs while the slot is taken and its port opened; nobody waits for it."""
        if any("flashed_firmware" in getattr(item, "fixturenames", ()) for item in session.items):
            threading.Thread(target=_load_flashing, name="hut-load-flashing", daemon=True).start()

    def pytest_runtest_setup(self) -> None:
        """What the board printed before this test, or before this rerun, must not let it pass."""
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
        if uses_slot:
            notes["slot"] = self._held.id if self._held else self._own_slot
        marker = item.get_closest_marker("hw_test")
        if marker and marker.args:
            notes["hw_id"] = str(marker.args[0])
        if uses_slot and self._held is not None:
            notes["evidence"] = [str(self._held.console.log_path)]
            if report.failed:
                text = self._held.console.text_since_mark()[-CONSOLE_TAIL:]
                report.sections.append((f"console of {self._held.id} since the last reset or mark", text))
        return report


def input_for_worker(
    bench: Bench, slot_id: str, session_slots: list[str], job: Job, worker: str, commit: str | None
) -> str:
    """Return the text from which `SlotWorker.from_controller` builds the worker."""
    return json.dumps(
        {
            "bench": bench.model_dump_json(),
            "slot": slot_id,
            "session_slots": session_slots,
            "job": asdict(job),
            "worker": worker,
            "commit": commit,
        }
    )


def _misfit(item: pytest.Item, slot: Slot) -> str | None:
    for marker in item.iter_markers("hut"):
        chips = marker.kwargs.get("chip") or slot.chip
        if slot.chip not in ([chips] if isinstance(chips, str) else chips):
            return f"needs chip {chips}, but {slot.id} has {slot.chip}"
        features = marker.kwargs.get("features") or ()
        missing = set([features] if isinstance(features, str) else features) - set(slot.features)
        if missing:
            return f"needs {', '.join(sorted(missing))}, which {slot.id} does not have"
    return None


def _load_flashing() -> None:
    """Import esptool. A module that another thread imports already is waited for, as always in Python."""
    from pytest_hut.board.packets import loader_class

    loader_class("esp32")
    importlib.import_module("esptool.cmds")


@cache
def _load(path: Path, chip: str) -> ImageSet:
    from pytest_hut.firmware.sources import load_firmware

    return load_firmware(path, chip)


@cache
def _stored(places: FirmwareTable, commit: str, chip: str) -> ImageSet:
    from pytest_hut.hub.commit import store_of

    return store_of(places).load(commit, chip)


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
