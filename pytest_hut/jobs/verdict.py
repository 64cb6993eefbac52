"""What is said of a job when it is over: status, exit code, and two sentences for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from pytest_hut.contracts.report import ArtifactRecord, Status
from pytest_hut.jobs.step import StepEnd
from pytest_hut.jobs.watch import Stop

MISSING_ARTIFACT = 1
INFRASTRUCTURE = 3
BUSY = 4
TIMED_OUT = 124
CANCELLED = 130


class Outcome(Enum):
    """How a job ended, finer than its status."""

    SUCCESS = auto()
    FAILED = auto()
    INFRASTRUCTURE = auto()
    """What the job needs is not there, or its evidence could not be kept."""
    BUSY = auto()
    """Another job of the same role and key was active."""
    TIMEOUT = auto()
    CANCELLED = auto()
    """By the flag."""
    INTERRUPTED = auto()
    """By a signal."""


@dataclass(frozen=True)
class Verdict:
    """What the report says. `exit_code` is 0 for success and for nothing else."""

    status: Status
    exit_code: int
    outcome: Outcome
    summary: str
    next_action: str

    def noting(self, *notes: str) -> Verdict:
        """Return the same with more sentences in the summary."""
        return replace(self, summary=" ".join([self.summary, *notes]))


def all_done(steps: int, seconds: float, artifacts: Sequence[ArtifactRecord]) -> Verdict:
    """Every step succeeded; the artifacts decide."""
    done = f"{_count(steps, 'step')} succeeded in {seconds:.1f} s"
    missing = [record for record in artifacts if not record.found]
    if missing:
        names = ", ".join(f"{printable(record.path)} ({record.problem})" for record in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return Verdict(
            "failed",
            MISSING_ARTIFACT,
            Outcome.FAILED,
            f"{done}, but {len(missing)} of {_count(len(artifacts), 'expected artifact')} did not come: {names}{more}.",
            "Look in the output of the steps why it was not made, or correct expected_artifacts.",
        )
    old = [printable(record.path) for record in artifacts if record.older_than_job]
    found = f"; {_count(len(artifacts), 'expected artifact')} found" if artifacts else ""
    verdict = Verdict("success", 0, Outcome.SUCCESS, f"{done}{found}.", "Nothing to do.")
    return verdict.noting(f"Not written by this job, but there before: {', '.join(old[:3])}.") if old else verdict


def step_failed(name: str, end: StepEnd, output: str) -> Verdict:
    """A step ended by itself, and badly."""
    code = end.exit_code or 0
    if end.problem:
        return Verdict(
            "failed",
            code,
            Outcome.FAILED,
            f"{name} could not be run: {printable(end.problem)}.",
            "Install the program, or correct the step.",
        )
    read = f"Read its output: {printable(output)}."
    return Verdict("failed", code, Outcome.FAILED, f"{name} failed with exit code {code}.", read)


def stopped(stop: Stop, where: str, flag: Path, *, flag_stays: bool) -> Verdict:
    """The job had to end.

    Args:
        where: "before ..." or "during ...", goes on from "Cancelled".
        flag_stays: the flag was obeyed and could not be removed.
    """
    if stop.kind == "timeout":
        return Verdict(
            "timeout",
            TIMED_OUT,
            Outcome.TIMEOUT,
            f"Ended {where} by {stop.reason}.",
            "Read how far it came, then ask for more time with timeout_sec, or for less work.",
        )
    outcome = Outcome.CANCELLED if stop.kind == "flag" else Outcome.INTERRUPTED
    again = f"Remove {flag} first, then run again." if flag_stays else "Run again when it suits."
    return Verdict("cancelled", CANCELLED, outcome, f"Cancelled {where} by {stop.reason}.", again)


def bench_failed(reason: str) -> Verdict:
    """The job could not be done, or not to its end, for a reason that is not its own."""
    reason = printable(reason)
    return Verdict(
        "failed",
        INFRASTRUCTURE,
        Outcome.INFRASTRUCTURE,
        f"{reason[0].upper()}{reason[1:]}.",
        "Put that right on the runner's host, then run again.",
    )


def not_begun(reason: str) -> Verdict:
    """Another job of the same role and key is active."""
    return Verdict(
        "failed",
        BUSY,
        Outcome.BUSY,
        f"Not begun: {printable(reason)}.",
        "Run it again later, or let it wait longer with --wait.",
    )


def printable(text: str) -> str:
    """Return `text` in one line that any terminal may be given."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
