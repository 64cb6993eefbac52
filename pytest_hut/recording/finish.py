"""The end of a job: what its journals tell becomes JUnit XML, a manifest and the report."""

from __future__ import annotations

from pathlib import Path

from pytest_hut.contracts.report import Report
from pytest_hut.recording.job import Job
from pytest_hut.recording.junit import write_junit
from pytest_hut.recording.manifest import write_manifest
from pytest_hut.recording.report import artifacts_of, build_report, write_report


def finish_job(job: Job) -> tuple[Report, Path]:
    """Write everything that is derived from the job's journals; safe to do again. Returns the report and its path."""
    report = build_report(job)
    write_junit(report, job.path / job.evidence_name("hil", "junit", ".xml"))
    path = job.path / job.evidence_name("hil", "report", ".json")
    report.manifest_sha256 = write_manifest(job.path, leave_out=frozenset({path.name}))
    report.artifact_paths = [name for name in artifacts_of(job) if Path(name).name != path.name]
    write_report(report, path)
    return report, path
