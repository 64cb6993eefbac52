"""The report of a job from the journals in its folder: for a session that was killed before it could write one."""

from __future__ import annotations

import os
import re
import socket
import time
from datetime import datetime
from pathlib import Path

from pytest_hut.contracts.guardrails import check_job_id
from pytest_hut.contracts.report import Report
from pytest_hut.errors import ConfigError
from pytest_hut.events.journal import read_journal
from pytest_hut.events.types import SessionFinished, SessionStarted
from pytest_hut.recording.finish import finish_job
from pytest_hut.recording.job import SESSION_JOURNAL, Job
from pytest_hut.recording.report import build_report, shown_path, write_report

_STAMP = re.compile(r"[0-9]{8}_[0-9]{6}")


def rebuild_report(folder: Path) -> tuple[Report, Path]:
    """Write report, JUnit XML and manifest of the job in `folder`, wherever that was copied to.

    Returns:
        The report and its path.

    Raises:
        ConfigError: `folder` is no job's folder, it has a report already, or its session is still running.
    """
    folder = folder.absolute()
    job = job_of(folder)
    report_path = folder / job.evidence_name("hil", "report", ".json")
    if report_path.exists():
        raise ConfigError(f"{shown_path(folder)} has its report already ({report_path.name}); move that away first")
    _refuse_a_running_session(folder)
    report_from_journals(folder)  # Before anything is written, to see whether they can be read.
    try:
        report, path = finish_job(job)
        for test in report.tests:
            test.evidence = [_found_below(folder, name) for name in test.evidence]
        write_report(report, path)
    except OSError as error:
        raise ConfigError(
            f"{shown_path(folder)} cannot be written to ({error.strerror}); rebuild a copy of it"
        ) from None
    return report, path


def job_of(folder: Path) -> Job:
    """Return the job whose evidence lies in `folder`, as its session journal names it.

    Raises:
        ConfigError: that is no job's folder.
    """
    journal = folder / SESSION_JOURNAL
    if not journal.is_file():
        raise ConfigError(f"{folder} is no folder of a job: it has no {SESSION_JOURNAL}")
    started = next((event for event in read_journal(journal) if isinstance(event, SessionStarted)), None)
    if started is None:
        raise ConfigError(f"{journal} does not say how the session began, so there is nothing to make a report of")
    try:
        stamp = started.stamp or datetime.fromisoformat(started.utc).strftime("%Y%m%d_%H%M%S")
        if not _STAMP.fullmatch(stamp):  # It becomes part of file names.
            raise ValueError(f"stamp {stamp!r}")
        return Job(check_job_id(started.job_id), started.lane, started.commit_sha, str(folder.absolute()), stamp)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{journal} is damaged: its SessionStarted cannot be right ({error})") from None


def report_from_journals(folder: Path) -> Report:
    """Return the report that the journals in `folder` make, without writing anything.

    Raises:
        ConfigError: that is no job's folder, or its journals say what cannot be.
    """
    job = job_of(folder)
    try:
        return build_report(job)
    except (TypeError, ValueError, AttributeError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"the journals in {folder} are damaged: no report can be made of them ({why})") from None


def _refuse_a_running_session(folder: Path) -> None:
    events = list(read_journal(folder / SESSION_JOURNAL))
    started = next(event for event in events if isinstance(event, SessionStarted))
    if any(isinstance(event, SessionFinished) for event in events):
        return
    if started.hostname not in ("", socket.gethostname()):
        return
    began = _process_start(started.pid)
    # A process that is younger than the session only has the same number.
    if began is not None and began <= datetime.fromisoformat(started.utc).timestamp():
        raise ConfigError(
            f"the session of {shown_path(folder)} still runs (pid {started.pid}); wait until it has ended"
        )


def _process_start(pid: int) -> float | None:
    """Return when a process of this host began, in seconds since the epoch; None if there is no such process."""
    try:
        # Behind the last parenthesis, since the program's name can have any character; see proc_pid_stat(5).
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
    if words[0] in (b"Z", b"X"):
        return None
    age_s = uptime_s - int(words[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


def _found_below(folder: Path, name: str) -> str:
    """Return where a file of the job is now that was called `name` where the job ran; `name` if it is not there."""
    parts = Path(name).parts
    for at in range(len(parts)):
        here = folder.joinpath(*parts[at:])
        if here.is_file() and here.is_relative_to(folder):
            return shown_path(here)
    return name
