"""The process that owns the session: it gives slots to workers, notes outcomes, and writes the report."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_hut.bench.load import load_bench, select_slots, virtual_bench
from pytest_hut.bench.models import Bench
from pytest_hut.bench.places import find_config
from pytest_hut.contracts.report import Report
from pytest_hut.errors import ConfigError, HutError
from pytest_hut.events.journal import Journal, read_journal
from pytest_hut.events.types import SessionFinished, SessionStarted, SlotLeased, SlotReleased, TestFinished
from pytest_hut.host import user_name
from pytest_hut.pytest_plugin.commit_firmware import CommitFirmware
from pytest_hut.pytest_plugin.options import MAXIMUM_TIMEOUT_S, asked_slots
from pytest_hut.pytest_plugin.scheduling import SlotScheduling
from pytest_hut.pytest_plugin.verdict import EXIT_INFRASTRUCTURE, PHASES, kind_on, message_on, notes_on
from pytest_hut.pytest_plugin.worker import SlotWorker, input_for_worker
from pytest_hut.recording.finish import finish_job
from pytest_hut.recording.job import SESSION_JOURNAL, Job, new_job
from pytest_hut.recording.report import write_report
from pytest_hut.virtual.slots import VirtualSlots


class SlotController:
    """Lives in the xdist controller, or in the only process, of a session with `--hut-slots`."""

    def __init__(self, config: pytest.Config, bench: Bench, slot_ids: list[str], commit: CommitFirmware | None) -> None:
        self._config = config
        self._bench = bench
        self._slot_ids = slot_ids
        self._commit = commit
        self._free = list(slot_ids)
        self._slot_of_node: dict[str, str] = {}
        self._failed_phase: dict[str, pytest.TestReport] = {}
        self._seen: dict[str, pytest.TestReport] = {}
        self._durations: dict[str, float] = {}
        self._kinds: set[str | None] = set()
        self._job: Job | None = None
        self._journal: Journal | None = None
        self._ends = contextlib.ExitStack()
        self._report_path: Path | None = None
        self._report: Report | None = None
        self._cause = ""
        self._reason = ""

    @classmethod
    def from_options(cls, config: pytest.Config) -> SlotController:
        """Check everything that can be checked before anything starts. Raises pytest.UsageError."""
        try:
            bench, slot_ids = _bench_from_options(config)
            commit = CommitFirmware.from_options(config, bench)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        workers = len(config.getoption("tx", None) or ())
        if workers > len(slot_ids):
            raise pytest.UsageError(
                f"-n {workers} asks for more workers than there are slots: --hut-slots names {len(slot_ids)} "
                f"({', '.join(slot_ids)}); use -n {len(slot_ids)}, or name more slots"
            )
        limit = config.getoption("hut_timeout")
        if not 0 < limit <= MAXIMUM_TIMEOUT_S:
            raise pytest.UsageError(
                f"--hut-timeout={limit:g}: a session may take more than 0 and at most {MAXIMUM_TIMEOUT_S:g} s"
            )
        firmware = config.getoption("hut_firmware")
        if firmware and not (config.invocation_params.dir / firmware).exists():
            raise pytest.UsageError(f"--hut-firmware={firmware}: there is no such file or folder")
        return cls(config, bench, slot_ids, commit)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Make the job's folder, start virtual boards, and begin the journal."""
        config = self._config
        if config.getoption("collectonly", False):
            return
        evidence = Path(config.getoption("hut_evidence") or self._bench.evidence_dir)
        try:
            job = new_job(
                config.invocation_params.dir / evidence,
                config.getoption("hut_job_id"),
                config.getoption("hut_lane"),
                config.rootpath,
            )
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        except HutError as error:
            pytest.exit(f"infrastructure: {error}", returncode=EXIT_INFRASTRUCTURE)
        self._job = job
        self._journal = self._ends.enter_context(contextlib.closing(Journal(job.path / SESSION_JOURNAL)))
        chosen = [self._bench.slots[slot_id] for slot_id in self._slot_ids]
        self._journal.append(
            SessionStarted(
                job_id=job.job_id,
                lane=job.lane,
                commit_sha=job.commit_sha,
                lock_key="+".join(self._slot_ids),
                slots=self._slot_ids,
                virtual=all(slot.virtual for slot in chosen),
                pid=os.getpid(),
                stamp=job.stamp,
                thread_ref=config.getoption("hut_thread_ref"),
                hostname=socket.gethostname(),
                user=user_name(),
            )
        )
        self._end_orderly_on_signals()
        self._end_in_time(config.getoption("hut_timeout"))
        try:
            if self._commit is not None:
                self._ends.enter_context(self._commit.kept_for([slot.chip for slot in chosen], job.path))
            self._bench = self._ends.enter_context(VirtualSlots(self._bench, self._slot_ids)).bench
        except HutError as error:
            self._reason = str(error)
            path = self._write_report(EXIT_INFRASTRUCTURE)
            pytest.exit(f"infrastructure: {error}; report: {self._shown(path)}", returncode=EXIT_INFRASTRUCTURE)
        if not config.getoption("tx", None):
            worker = SlotWorker(config, self._bench, self._slot_ids[0], self._slot_ids, job, "", self._commit_sha())
            config.pluginmanager.register(worker, "hut-worker")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a new worker its slot before it sets anything up; after a crash, that of the dead one."""
        if self._job is None:
            return
        slot_id = self._free.pop(0)
        self._slot_of_node[node.gateway.id] = slot_id
        node.workerinput["hut"] = input_for_worker(
            self._bench, slot_id, self._used_slots(), self._job, node.gateway.id, self._commit_sha()
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> SlotScheduling | None:
        """Take the place of xdist's default scheduler; one that was asked for stays."""
        if config.getoption("dist") != "load":
            return None
        return SlotScheduling(config, self._used_slots(), lambda node: self._slot_of_node[node.gateway.id])

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """The slot of a worker that ended, however it did, is free for another."""
        slot_id = self._slot_of_node.get(node.gateway.id)
        if slot_id is not None and slot_id not in self._free:
            self._free.insert(0, slot_id)

    def pytest_report_header(self) -> list[str]:
        """Say which slots are used and where the evidence goes."""
        if self._job is None:
            return []
        kinds = [f"{slot_id}{' (virtual)' if self._bench.slots[slot_id].virtual else ''}" for slot_id in self._slot_ids]
        return [f"hut: slots {', '.join(kinds)}; evidence in {self._shown(self._job.path)}"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test once its last phase is over."""
        node_id = report.nodeid
        self._durations[node_id] = self._durations.get(node_id, 0.0) + report.duration
        if report.when == "call" or not report.passed:
            self._seen.setdefault(node_id, report)
        if report.failed:
            self._failed_phase.setdefault(node_id, report)
        if report.when not in ("setup", "call"):  # teardown, or xdist's `???` for a crashed worker
            self._note_outcome(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Infrastructure trouble is an error, never a failure of the product."""
        if isinstance(report, pytest.TestReport) and report.failed and kind_on(report) == "infrastructure":
            return "error", "E", "INFRASTRUCTURE ERROR"
        return None

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember why; workers that hold boards are told to put them in order and end."""
        self._reason = str(excinfo.value) or "Ctrl-C"
        if self._cause == "timeout":
            self._reason = f"the time limit of {self._config.getoption('hut_timeout'):g} s is over"
        else:
            self._cause = "cancel" if "cancelled by" in self._reason else "interrupt"
        for pid in self._holders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
        """When all workers have ended: set the exit status, write the report."""
        result = yield
        if self._job is None:
            return result
        if exitstatus == pytest.ExitCode.TESTS_FAILED and self._kinds == {"infrastructure"}:
            session.exitstatus = EXIT_INFRASTRUCTURE
        self._reason = self._reason or str(getattr(session, "shouldfail", "") or "")
        self._write_report(int(session.exitstatus))
        return result

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what came of it and where the report is."""
        if self._report is None or self._report_path is None:
            return
        terminalreporter.section("hut")
        terminalreporter.line(f"{self._report.status}: {self._report.human_summary}")
        if self._report.status != "success":
            terminalreporter.line(f"next: {self._report.next_action}")
        terminalreporter.line(f"report: {self._shown(self._report_path)}")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._tell_github(terminalreporter, self._report)

    def _write_report(self, exit_code: int) -> Path:
        assert self._job is not None and self._journal is not None
        self._journal.append(SessionFinished(exit_code=exit_code, cause=self._cause, reason=self._reason))
        self._report, self._report_path = finish_job(self._job)
        asked = self._config.getoption("hut_report")
        if asked:
            self._report_path = self._config.invocation_params.dir / asked
            write_report(self._report, self._report_path)
        return self._report_path

    def _tell_github(self, terminalreporter: Any, report: Report) -> None:
        from pytest_hut.recording.github import append_step_summary, failure_annotations

        for command in failure_annotations(report):
            terminalreporter.line(command)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            append_step_summary(report, Path(summary))

    def pytest_unconfigure(self) -> None:
        """Stop the virtual boards and close the journal."""
        self._ends.close()

    def _note_outcome(self, last: pytest.TestReport) -> None:
        assert self._journal is not None
        node_id = last.nodeid
        report = self._failed_phase.pop(node_id, None) or self._seen.get(node_id, last)
        self._seen.pop(node_id, None)
        outcome, kind = _outcome_of(report)
        self._kinds |= {kind} if report.failed else set()
        node = getattr(last, "node", None)
        worker = node.gateway.id if node is not None else ""
        notes = notes_on(report)
        slot = notes.get("slot", "") or (self._slot_of_node.get(worker, "") if outcome == "crashed" else "")
        self._journal.append(
            TestFinished(
                slot=slot,
                node_id=node_id,
                hw_id=notes.get("hw_id"),
                outcome=outcome,
                kind=kind,
                duration_s=self._durations.pop(node_id, 0.0),
                message=message_on(report),
                worker=worker,
                evidence=[self._shown(Path(path)) for path in notes.get("evidence", ())],
            )
        )

    def _commit_sha(self) -> str | None:
        return self._commit.commit if self._commit is not None else None

    def _used_slots(self) -> list[str]:
        return self._slot_ids[: len(self._config.getoption("tx", None) or self._slot_ids)]

    def _holders(self) -> set[int]:
        """Return the worker processes that hold a slot now, as their journals tell."""
        holders: set[int] = set()
        for path in self._job.path.glob("*/events_*.jsonl") if self._job else ():
            for event in read_journal(path):
                if isinstance(event, SlotLeased):
                    holder = event.pid
                    holders.add(holder)
                elif isinstance(event, SlotReleased):
                    holders.discard(holder)
        return holders - {os.getpid()}

    def _shown(self, path: Path) -> str:
        here = self._config.invocation_params.dir
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    def _end_in_time(self, limit_s: float) -> None:
        def end() -> None:
            self._cause = "timeout"
            os.kill(os.getpid(), signal.SIGTERM)

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        self._ends.callback(timer.cancel)

    def _end_orderly_on_signals(self) -> None:
        def end(number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt(signal.Signals(number).name)

        for number in (signal.SIGTERM, signal.SIGHUP):
            self._ends.callback(signal.signal, number, signal.signal(number, end))


def _bench_from_options(config: pytest.Config) -> tuple[Bench, list[str]]:
    asked = asked_slots(config)
    path = find_config(config.getoption("hut_config"), config.invocation_params.dir)
    bench = load_bench(path) if path else None
    if config.getoption("hut_virtual"):
        bench = virtual_bench(asked, bench)
    elif bench is None:
        raise ConfigError(
            "--hut-slots needs a slots.toml, and there is none (looked at --hut-config, HUT_CONFIG, ./slots.toml, "
            "~/.config/hut/slots.toml, /etc/hut/slots.toml); copy slots.example.toml, or add --hut-virtual"
        )
    return bench, [slot.id for slot in select_slots(bench, asked, str(path or "--hut-virtual"))]


def _outcome_of(report: pytest.TestReport) -> tuple[str, str | None]:
    if report.failed:
        if report.when not in PHASES:
            return "crashed", kind_on(report)
        return ("failed" if report.when == "call" else "error"), kind_on(report) or "product"
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped:
        return ("xfailed" if expected_failure else "skipped"), None
    return ("xpassed" if expected_failure else "passed"), None
