"""The process that owns the session: it gives slots to workers, notes outcomes, and writes the report."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from pytest_hut.board.hold import slot_lock
from pytest_hut.contracts.report import Report
from pytest_hut.errors import ConfigError, HutError, InfrastructureError
from pytest_hut.events.journal import Journal, read_journal
from pytest_hut.events.types import SessionFinished, SlotLeased, SlotReleased
from pytest_hut.lease.handover import LockOffice
from pytest_hut.lease.several import HeldLocks, take_any, take_each
from pytest_hut.pytest_plugin.choice import Choice, choice_from_options
from pytest_hut.pytest_plugin.commit_firmware import CommitFirmware
from pytest_hut.pytest_plugin.dispatch import Dispatch
from pytest_hut.pytest_plugin.needs import facts_of
from pytest_hut.pytest_plugin.options import check_numbers, worker_count
from pytest_hut.pytest_plugin.outcomes import Outcomes
from pytest_hut.pytest_plugin.progress import TerminalProgress
from pytest_hut.pytest_plugin.seat import Seat, input_for_worker
from pytest_hut.pytest_plugin.verdict import EXIT_INFRASTRUCTURE
from pytest_hut.pytest_plugin.worker import SlotWorker
from pytest_hut.recording.begin import session_started
from pytest_hut.recording.finish import finish_job
from pytest_hut.recording.job import SESSION_JOURNAL, Job, new_job
from pytest_hut.recording.report import write_report
from pytest_hut.virtual.slots import VirtualSlots


class SlotController:
    """Lives in the xdist controller, or in the only process, of a session with `--hut-slots`."""

    def __init__(self, config: pytest.Config, choice: Choice, commit: CommitFirmware | None) -> None:
        self._config = config
        self._bench = choice.bench
        self._choice = choice
        self._slot_ids = choice.slot_ids
        self._commit = commit
        self._free: list[str] = []
        self._locks = HeldLocks()
        self._lock_office: LockOffice | None = None
        self._dispatch: Dispatch | None = None
        self._slot_of_node: dict[str, str] = {}
        self._outcomes: Outcomes | None = None
        self._job: Job | None = None
        self._journal: Journal | None = None
        self._ends = contextlib.ExitStack()
        self._report_path: Path | None = None
        self._report: Report | None = None
        self._cause = ""
        self._reason = ""
        self._stopped_at_failure = False

    @classmethod
    def from_options(cls, config: pytest.Config) -> SlotController:
        """Check everything that can be checked before anything starts. Raises pytest.UsageError."""
        try:
            choice = choice_from_options(config)
            commit = CommitFirmware.from_options(config, choice.bench)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        workers = worker_count(config)
        if workers > choice.count:
            raise pytest.UsageError(
                f"-n {workers} asks for more workers than there are slots: --hut-slots names {choice.count} "
                f"({', '.join(choice.slot_ids)}); use -n {choice.count}, or name more slots"
            )
        check_numbers(config)
        firmware = config.getoption("hut_firmware")
        if firmware and not (config.invocation_params.dir / firmware).exists():
            raise pytest.UsageError(f"--hut-firmware={firmware}: there is no such file or folder")
        return cls(config, choice, commit)

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
        self._end_orderly_on_signals()
        self._end_in_time(config.getoption("hut_timeout"))
        try:
            self._take_slots(job)
        except HutError as error:
            self._say_started(job)
            self._give_up(error)
        except KeyboardInterrupt:
            self._say_started(job)  # So that the report can say what was waited for.
            raise
        self._say_started(job)
        facts = [facts_of(self._bench.slots[slot_id]) for slot_id in self._slot_ids]
        self._dispatch = Dispatch(config, job, facts, self._journal.append, self._slot_of)
        self._outcomes = Outcomes(self._journal.append, self._slot_of, self._shown)
        config.pluginmanager.register(self._dispatch, "hut-dispatch")
        config.pluginmanager.register(self._outcomes, "hut-outcomes")
        for slot_id in self._locks.busy:
            self._dispatch.lose(slot_id, self._locks.busy[slot_id])
        try:
            if self._commit is not None:
                chips = [self._bench.slots[slot_id].chip for slot_id in self._slot_ids]
                self._ends.enter_context(self._commit.kept_for(chips, job.path))
            self._bench = self._ends.enter_context(VirtualSlots(self._bench, self._slot_ids)).bench
        except HutError as error:
            self._give_up(error)
        self._free = list(self._slot_ids)
        if not worker_count(config):
            seat = Seat(self._slot_ids[0], self._slot_ids, self._commit_sha())
            config.pluginmanager.register(SlotWorker(config, self._bench, job, seat, self._locks), "hut-worker")

    def _take_slots(self, job: Job) -> None:
        """Take the locks of a session with several workers, or of any free slots, before anything is started."""
        config, choice = self._config, self._choice
        timeout_s = config.getoption("hut_lock_timeout")
        progress = TerminalProgress(config, "hut")
        workers = worker_count(config)
        self._ends.callback(self._locks.release)
        locks = {slot_id: slot_lock(self._bench.slots[slot_id], job.job_id) for slot_id in choice.slot_ids}
        if choice.any_of:
            self._locks.take_over(take_any(locks, workers or choice.count, timeout_s, progress.line))
            self._slot_ids = [slot_id for slot_id in choice.slot_ids if slot_id in self._locks.locks]
        self._slot_ids = self._slot_ids[: workers or None]
        if workers and not choice.any_of:
            used = {slot_id: locks[slot_id] for slot_id in self._slot_ids}
            self._locks.take_over(take_each(used, timeout_s, progress.line))
            if not self._locks.locks:
                raise InfrastructureError("no slot can be had: " + "; ".join(self._locks.busy.values()))
        if workers:
            self._lock_office = self._ends.enter_context(contextlib.closing(LockOffice(self._locks)))

    def _say_started(self, job: Job) -> None:
        assert self._journal is not None
        chosen = [self._bench.slots[slot_id] for slot_id in self._slot_ids]
        self._journal.append(session_started(job, chosen, self._config.getoption("hut_thread_ref")))

    def _give_up(self, error: HutError) -> NoReturn:
        self._reason = str(error)
        path = self._write_report(EXIT_INFRASTRUCTURE)
        pytest.exit(f"infrastructure: {error}; report: {self._shown(path)}", returncode=EXIT_INFRASTRUCTURE)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a new worker its slot before it sets anything up; after a crash, that of the dead one."""
        if self._job is None or self._dispatch is None:
            return
        slot_id = self._free.pop(0)
        self._slot_of_node[node.gateway.id] = slot_id
        seat = Seat(
            slot_id,
            self._slot_ids,
            worker=node.gateway.id,
            errands=self._config.getoption("dist") == "load",
            lock_office=self._lock_office.address if self._lock_office else "",
            waited_s=self._locks.waited_s,
            failures=self._dispatch.failures_of(slot_id),
            commit=self._commit_sha(),
        )
        node.workerinput["hut"] = input_for_worker(self._bench, self._job, seat)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Say which worker has which slot."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and self._config.getoption("verbose") > 0:
            slot_id = self._slot_of_node[node.gateway.id]
            terminal.write_line(f"[{node.gateway.id}] has {slot_id} ({self._bench.slots[slot_id].chip})")

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

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember why; workers that hold boards are told to put them in order and end."""
        self._reason = str(excinfo.value) or "Ctrl-C"
        if self._cause == "timeout":
            self._reason = f"the time limit of {self._config.getoption('hut_timeout'):g} s is over"
        elif self._reason.startswith("stopping after "):
            self._stopped_at_failure = True  # xdist interrupts itself at what -x or --maxfail says.
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
        failed = exitstatus == pytest.ExitCode.TESTS_FAILED or self._stopped_at_failure
        if failed and self._outcomes and self._outcomes.only_bench_failed:
            session.exitstatus = EXIT_INFRASTRUCTURE
        if self._dispatch is not None:
            if self._dispatch.all_gone:
                session.exitstatus = EXIT_INFRASTRUCTURE
                self._reason = self._reason or self._dispatch.all_gone
            self._dispatch.finish()
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
        """Stop the virtual boards and close the journal; report a session that ended before it had begun."""
        with self._ends:
            if self._job is not None and self._journal is not None and self._report is None:
                code = pytest.ExitCode.INTERRUPTED if self._cause else pytest.ExitCode.INTERNAL_ERROR
                self._write_report(int(code))

    def _slot_of(self, node: Any) -> str:
        return self._slot_of_node.get(node.gateway.id, "")

    def _commit_sha(self) -> str | None:
        return self._commit.commit if self._commit is not None else None

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
        return {pid for pid in holders if _is_child(pid)}

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


def _is_child(pid: int) -> bool:
    """Whether it is a process that this one started: the number of one that died may be another's by now."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
