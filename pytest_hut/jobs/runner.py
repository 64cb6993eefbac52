"""Run an invocation under its guardrails, and report."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_hut.contracts.guardrails import SHARED_FOLDER, job_lock
from pytest_hut.contracts.invocation import Invocation
from pytest_hut.contracts.report import ArtifactRecord, Executor, Report, Status, StepRecord
from pytest_hut.errors import HutError, InfrastructureError, SlotBusy
from pytest_hut.events.types import utc_now
from pytest_hut.host import user_name
from pytest_hut.jobs.artifacts import check_artifact
from pytest_hut.jobs.cancel import CancelFlag
from pytest_hut.jobs.evidence import JobEvidence, asked_sha, is_folder, path_text
from pytest_hut.jobs.family import adopting_orphans
from pytest_hut.jobs.output import OutputFile
from pytest_hut.jobs.signals import StopSignals
from pytest_hut.jobs.step import StepEnd, run_step
from pytest_hut.jobs.verdict import Outcome, Verdict, all_done, bench_failed, not_begun, printable, step_failed, stopped
from pytest_hut.jobs.watch import Stop, Watch
from pytest_hut.lease.lockfile import POLL_S, LockFile
from pytest_hut.recording.job import commit_of
from pytest_hut.recording.report import write_report


@dataclass(frozen=True)
class RunOptions:
    """What the runner decides, and the requester does not."""

    lock_wait_s: float
    """How long to wait for another job of the same role and key, in seconds."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""
    evidence: Path | None = None
    """Where job folders are made; None: `build/hut` in the working folder of the job."""
    report: Path | None = None
    """Also write the report here."""
    shared_folder: Path = SHARED_FOLDER
    """Where locks and cancel flags are."""
    tell: Callable[[str], None] = field(default=lambda _line: None)
    """Told what goes on."""


@dataclass(frozen=True)
class FinishedJob:
    """A job that is over."""

    report: Report
    outcome: Outcome
    report_paths: list[Path]
    """Where the report is; empty if it could not be written anywhere."""
    trouble: list[str]
    """Why it is not everywhere where it should be."""


def run_job(invocation: Invocation, options: RunOptions, signals: StopSignals) -> FinishedJob:
    """Run the steps of an invocation and write a report of it, whatever happens.

    Every process that is started meanwhile is taken for one of the job's and ended with it, so nothing else may start
    processes here. To be called in the main thread, inside `signals`.
    """
    # The lock is given back after the report is written: who gets it next finds everything done.
    with contextlib.ExitStack() as ends:
        return _Run(invocation, options, signals, ends).carried_out()


class _Run:
    """One run of one invocation."""

    def __init__(
        self, invocation: Invocation, options: RunOptions, signals: StopSignals, ends: contextlib.ExitStack
    ) -> None:
        self._asked = invocation
        self._options = options
        self._signals = signals
        self._ends = ends
        self._workdir = Path.cwd() / (invocation.workdir or ".")
        self._began = time.time()
        self._start_utc = utc_now()
        self._start = time.monotonic()
        self._lock_waited_s = 0.0
        self._evidence: JobEvidence | None = None
        self._steps: list[StepRecord] = []
        self._artifacts: list[ArtifactRecord] = []
        self._something_still_runs = False

    def carried_out(self) -> FinishedJob:
        """Do it all."""
        try:
            self._evidence = evidence = JobEvidence(self._asked, self._workdir, self._options.evidence)
            verdict = self._verdict(evidence)
        except SlotBusy as error:
            verdict = not_begun(str(error))
        except (HutError, OSError) as error:
            reason = str(error) if isinstance(error, HutError) else f"{error.strerror}: {error.filename or 'this host'}"
            verdict = bench_failed(reason)
        return self._delivered(verdict)

    def _verdict(self, evidence: JobEvidence) -> Verdict:
        """Do the work. Raises HutError and OSError where the host does not allow it."""
        if not is_folder(self._workdir):
            raise InfrastructureError(f"the working folder {self._workdir} is not there")
        flag = CancelFlag(self._asked.job_id, self._asked.request_utc, self._options.shared_folder)
        with Watch(flag, self._signals) as watch:
            lock = self._take_lock(watch)
            self._lock_waited_s = time.monotonic() - self._start
            self._began, self._start_utc, self._start = time.time(), utc_now(), time.monotonic()
            if lock is not None:
                watch.limit(self._asked.timeout_sec)
                with adopting_orphans():
                    verdict = self._run_steps(evidence, watch, lock)
                if verdict is not None:
                    return verdict
            if watch.stop is None:
                self._check_artifacts(watch)
            if watch.stop is not None:
                return self._stopped(watch.stop, flag)
        return all_done(len(self._steps), time.monotonic() - self._start, self._artifacts)

    def _take_lock(self, watch: Watch) -> LockFile | None:
        """Return the lock; None when the job has to end before it could be had."""
        path = job_lock(self._asked.target_role, self._asked.lock_key, self._options.shared_folder)
        give_up_at = time.monotonic() + self._options.lock_wait_s
        told = False
        while not watch.look():
            lock = LockFile(path, self._asked.job_id)
            try:
                lock.acquire(0)
            except SlotBusy:
                holder = lock.holder()
                if holder is None:
                    continue  # Given back just now, or only looked at.
                left = give_up_at - time.monotonic()
                if left <= 0:
                    raise SlotBusy(
                        f"{path} is held by {holder}, which is still active after {self._options.lock_wait_s:g} s"
                    ) from None
                if not told:
                    self._options.tell(f"waiting for {path}, held by {holder}")
                    told = True
                # The kernel tells nobody when a lock is given back.
                watch.wait(min(POLL_S, left))
            else:
                self._ends.callback(self._give_back, lock)
                return lock
        return None

    def _give_back(self, lock: LockFile) -> None:
        # What could not be ended has inherited the lock, and keeps it until it has ended.
        if not self._something_still_runs:
            lock.release()

    def _run_steps(self, evidence: JobEvidence, watch: Watch, lock: LockFile) -> Verdict | None:
        """Run the steps in order; None when all have succeeded, or when there is a reason to stop between two."""
        for number, words in enumerate(self._asked.steps, 1):
            if watch.look():
                return None
            self._options.tell(self._step_name(number))
            start, start_utc = time.monotonic(), utc_now()
            with contextlib.closing(evidence.new_output(number, words[0])) as output:
                end = run_step(
                    words,
                    workdir=self._workdir,
                    output=output,
                    watch=watch,
                    grace_s=self._options.grace_s,
                    lock_fd=lock.fileno(),
                )
            trouble = self._trouble_of(number, end, output)
            record = StepRecord(
                number=number,
                command=self._asked.command[number - 1],
                status=_status_of(end),
                exit_code=end.exit_code,
                start_utc=start_utc,
                duration_sec=round(time.monotonic() - start, 3),
                output=evidence.shown(output.path),
                output_bytes=output.size,
                output_sha256=output.sha256,
                problem=printable(end.problem or trouble),
                ended_processes=[printable(str(process)) for process in end.ended],
            )
            self._steps.append(record)
            if end.stop is not None:
                verdict = self._stopped(end.stop, watch.flag)
                return verdict.noting(f"{printable(trouble)}.") if trouble else verdict
            if trouble:
                return bench_failed(trouble)
            if record.status != "success":
                return step_failed(self._step_name(number), end, record.output)
        return None

    def _trouble_of(self, number: int, end: StepEnd, output: OutputFile) -> str:
        """Say what of a step makes all that comes after it worthless, if anything does."""
        if end.unending:
            self._something_still_runs = True
            names = ", ".join(str(process) for process in end.unending[:5])
            return f"{self._step_name(number)} left processes that cannot be ended: {names}"
        if output.trouble:
            return (
                f"The output of {self._step_name(number, 'step')} was cut after {output.size} bytes, "
                f"{output.dropped} are lost: {output.trouble.lower()}"
            )
        return ""

    def _check_artifacts(self, watch: Watch) -> None:
        for path in self._asked.expected_artifacts:
            self._artifacts.append(check_artifact(path, self._workdir, self._began, watch))
            if watch.stop:
                return

    def _stopped(self, stop: Stop, flag: CancelFlag) -> Verdict:
        """Say how far the job came; an obeyed flag is taken away."""
        done = len(self._steps)
        if self._steps and self._steps[-1].status in ("timeout", "cancelled"):
            where = f"during {self._step_name(done, 'step')}"
        elif done < len(self._asked.command):
            where = f"before {self._step_name(done + 1, 'step')}"
        else:
            where = f"after {self._step_name(done, 'step')}"
        return stopped(stop, where, flag.path, flag_stays=stop.kind == "flag" and not flag.remove())

    def _step_name(self, number: int, word: str = "Step") -> str:
        program = Path(self._asked.steps[number - 1][0]).name
        return f"{word} {number} of {len(self._asked.command)} ({printable(program)[:80]})"

    def _delivered(self, verdict: Verdict) -> FinishedJob:
        """Write the report wherever it should be."""
        paths: list[Path] = []
        trouble: list[str] = []
        evidence = self._evidence
        manifest_sha256 = None
        if evidence is not None:
            try:
                manifest_sha256 = evidence.seal()
            except OSError as error:
                trouble.append(f"the manifest of {evidence.folder} cannot be written ({error.strerror})")
        report = self._report(verdict, manifest_sha256)
        if evidence is not None:
            try:
                evidence.write_report(report)
                paths.append(evidence.report_path)
            except OSError as error:
                trouble.append(f"{evidence.report_path} cannot be written ({error.strerror})")
        if self._options.report is not None:
            try:
                write_report(report, self._options.report)
                paths.append(self._options.report)
            except OSError as error:
                trouble.append(f"{self._options.report} cannot be written ({error.strerror})")
        return FinishedJob(report, verdict.outcome, paths, trouble)

    def _report(self, verdict: Verdict, manifest_sha256: str | None) -> Report:
        asked, found = asked_sha(self._asked), commit_of(self._workdir)
        if asked and found != "none" and not found.startswith(asked):
            verdict = verdict.noting(f"The work tree is at {found[:12]}, not at {asked[:12]} as was asked for.")
        found_artifacts = [record.path for record in self._artifacts if record.found]
        report = Report(
            schema_version="ws2.report.v1",
            job_id=self._asked.job_id,
            agent_role=self._asked.target_role,
            status=verdict.status,
            start_utc=_whole_seconds(self._start_utc),
            end_utc=_whole_seconds(utc_now()),
            duration_sec=round(time.monotonic() - self._start, 3),
            exit_code=verdict.exit_code,
            lock_key=self._asked.lock_key,
            human_summary=verdict.summary,
            executor=Executor(hostname=socket.gethostname(), user=printable(user_name())),
            commit_sha=found if found != "none" else asked or "none",
            artifact_paths=[*found_artifacts, *(self._evidence.files() if self._evidence else ())],
            next_action=verdict.next_action,
            evidence_dir=path_text(self._evidence.folder) if self._evidence else None,
            manifest_sha256=manifest_sha256,
            requested_by=self._asked.requested_by,
            request_utc=self._asked.request_utc,
            requested_commit_sha=self._asked.commit_sha,
            timeout_sec=self._asked.timeout_sec,
            lock_waited_sec=round(self._lock_waited_s, 3),
            workdir=path_text(self._workdir),
            steps=self._steps,
            expected_artifacts=self._artifacts,
        )
        thread_ref = (self._asked.model_extra or {}).get("thread_ref")
        if isinstance(thread_ref, str):
            report.thread_ref = thread_ref
        return report


def _status_of(end: StepEnd) -> Status:
    if end.stop is None:
        return "success" if end.exit_code == 0 and not end.unending else "failed"
    return "timeout" if end.stop.kind == "timeout" else "cancelled"


def _whole_seconds(utc: str) -> str:
    return utc[:19] + "Z"
