"""What `hut run` does: read, run, tell."""

from __future__ import annotations

import argparse
import contextlib
import sys

from pytest_hut.cli.exits import BUSY, CANCELLED, FAILED, INFRASTRUCTURE, INTERRUPTED, OK, TIMEOUT
from pytest_hut.contracts.invocation import read_invocation
from pytest_hut.errors import ConfigError
from pytest_hut.jobs.report_file import report_text
from pytest_hut.jobs.runner import FinishedJob, RunOptions, run_job
from pytest_hut.jobs.signals import StopSignals
from pytest_hut.jobs.verdict import Outcome
from pytest_hut.recording.report import shown_path

EXIT_CODES = {
    Outcome.SUCCESS: OK,
    Outcome.FAILED: FAILED,
    Outcome.INFRASTRUCTURE: INFRASTRUCTURE,
    Outcome.BUSY: BUSY,
    Outcome.TIMEOUT: TIMEOUT,
    Outcome.CANCELLED: CANCELLED,
    Outcome.INTERRUPTED: INTERRUPTED,
}


def run_and_tell(options: argparse.Namespace, signals: StopSignals) -> int:
    """Run the job and print what came of it. Raises ConfigError: there is no valid invocation, so there is no job."""
    if options.report is not None and options.report.is_dir():
        raise ConfigError(f"--report={options.report} is a folder; give the name of a file in it")
    finished = run_job(
        read_invocation(options.job),
        RunOptions(
            evidence=options.evidence,
            report=options.report,
            lock_wait_s=options.wait,
            grace_s=options.grace,
            shared_folder=options.shared,
            tell=_tell,
        ),
        signals,
    )
    return _say(finished)


def _say(finished: FinishedJob) -> int:
    report = finished.report
    for trouble in finished.trouble:
        _tell(f"error: {trouble}")
    if not finished.report_paths:
        # Nowhere else to put it, and what happened has to be said.
        sys.stderr.write(report_text(report))
    code = EXIT_CODES[finished.outcome]
    print(f"{report.status}: {report.human_summary}")
    if code != OK:
        print(f"next: {report.next_action}")
    for path in finished.report_paths:
        print(f"report: {shown_path(path)}")
    return code or (INFRASTRUCTURE if finished.trouble else OK)


def _tell(line: str) -> None:
    # Who started the job may have gone, and the job goes on.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"hut: {line}\n")
        sys.stderr.flush()
