"""A command that is a job: its beginning and its end are in the journal of its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.cli.exits import OK, exit_code_of, in_one_line
from pytest_hut.events.journal import Journal
from pytest_hut.events.types import SessionFinished
from pytest_hut.recording.begin import session_started
from pytest_hut.recording.job import SESSION_JOURNAL, Job, new_job

LANE = "local-hil"


def job_for(evidence: Path | None, bench: Bench | None) -> Job:
    """Make the folder of a new job where it was asked for, or where the bench has its evidence.

    Raises InfrastructureError: the folder cannot be made.
    """
    return new_job(Path.cwd() / (evidence or (bench or Bench()).evidence_dir), None, LANE, Path.cwd())


@dataclass
class Ending:
    """How a job ended: the exit code, and the reason if it is not 0."""

    code: int = OK
    reason: str = ""


@contextlib.contextmanager
def recorded(job: Job, slots: list[Slot]) -> Iterator[Ending]:
    """Write down beginning and end of a job on these slots; the end is what was noted in the ending, or the error."""
    with contextlib.closing(Journal(job.path / SESSION_JOURNAL)) as journal:
        journal.append(session_started(job, slots))
        ending, cause = Ending(), ""
        try:
            yield ending
        except BaseException as error:
            ending.code, ending.reason = exit_code_of(error), in_one_line(error)
            cause = "interrupt" if isinstance(error, KeyboardInterrupt) else ""
            raise
        finally:
            journal.append(SessionFinished(exit_code=ending.code, cause=cause, reason=ending.reason))
