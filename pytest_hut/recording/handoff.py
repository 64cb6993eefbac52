"""What a report says for the hand-over line."""

from __future__ import annotations

from pytest_hut.contracts.report import MergedJob, Report
from pytest_hut.recording.report import FAILURES


def needs_a_person(report: Report) -> bool:
    """Whether somebody has to go to the bench: it failed, or a board may be without power."""
    bench_failed = any(test.kind == "infrastructure" and test.outcome in FAILURES for test in report.tests)
    return bench_failed or any(cycle.status != "ok" for slot in report.slots for cycle in slot.power_cycle_results[-1:])


def evidence_of(report: Report, report_path: str) -> tuple[str, ...]:
    """Return the paths that lead to all evidence: the report, and the folders of the jobs, or else every file."""
    jobs: list[Report | MergedJob] = [*report.merged_from] or [report]
    folders = [job.evidence_dir for job in jobs if job.evidence_dir]
    return tuple(dict.fromkeys([report_path, *(folders or report.artifact_paths)]))
