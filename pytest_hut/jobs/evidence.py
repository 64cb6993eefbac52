"""The evidence folder of one job: what was asked, what every step printed, the manifest, the report."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pytest_hut.contracts.invocation import Invocation
from pytest_hut.contracts.report import Report
from pytest_hut.errors import InfrastructureError
from pytest_hut.jobs.output import OutputFile
from pytest_hut.jobs.report_file import ReservedReport
from pytest_hut.recording.job import Job, commit_of, new_job
from pytest_hut.recording.manifest import write_manifest

EVIDENCE_DIR = Path("build/hut")
"""Below the job's working folder, so that jobs in two worktrees never mix."""

AREA = "job"

RESERVED_BYTES = 64 * 1024
RESERVED_PER_STEP = 2 * 1024
COPIES_OF_THE_INVOCATION = 8
"""How much larger, roughly, the report may write what it repeats of the invocation."""

_SHA = re.compile(r"[0-9a-fA-F]{7,64}")


def is_folder(path: Path) -> bool:
    """Whether there is a folder, also for a path that the host cannot even look up, such as an overlong one."""
    try:
        return path.is_dir()
    except OSError:
        return False


class JobEvidence:
    """A new folder, with the invocation in it, and space for the report."""

    def __init__(self, invocation: Invocation, workdir: Path, asked_dir: Path | None) -> None:
        """Make it.

        Args:
            asked_dir: where to make the job's folder, if not in the working folder.

        Raises:
            InfrastructureError: it cannot be made, or the disk is full.
        """
        self._workdir = workdir
        base = workdir if is_folder(workdir) else Path.cwd()
        found_sha = commit_of(base)
        self._job: Job = new_job(
            Path.cwd() / asked_dir if asked_dir else base / EVIDENCE_DIR,
            invocation.job_id,
            "",
            base,
            role=invocation.target_role,
            commit_sha=found_sha if found_sha != "none" else asked_sha(invocation) or "none",
        )
        text = invocation.model_dump_json(indent=2, exclude_unset=True) + "\n"
        records = len(invocation.command) + len(invocation.expected_artifacts)
        reserve = RESERVED_BYTES + RESERVED_PER_STEP * records + COPIES_OF_THE_INVOCATION * len(text.encode())
        try:
            self._report = ReservedReport(self._job.path / self._job.evidence_name(AREA, "report", ".json"), reserve)
            (self._job.path / self._job.evidence_name(AREA, "invocation", ".json")).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InfrastructureError(
                f"evidence cannot be kept in {self._job.path} ({error.strerror}), so nothing was run"
            ) from None

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return self._job.path

    @property
    def report_path(self) -> Path:
        """Where the report is, or will be."""
        return self._report.path

    def new_output(self, number: int, program: str) -> OutputFile:
        """Make the file for the output of a step. Raises InfrastructureError."""
        what = re.sub(r"[^A-Za-z0-9-]+", "-", Path(program).name)[:40].strip("-") or "program"
        path = self._job.path / self._job.evidence_name(AREA, f"step{number:02}-{what}", ".log")
        try:
            return OutputFile(path)
        except OSError as error:
            raise InfrastructureError(f"evidence cannot be kept in {path} ({error.strerror})") from None

    def seal(self) -> str:
        """Write the manifest of all there is by now and return its SHA-256 in hex. Raises OSError."""
        return write_manifest(self._job.path, frozenset({self._report.path.name}))

    def files(self) -> list[str]:
        """Return the paths of all files but the report, as `shown`."""
        return [self.shown(path) for path in sorted(self._job.path.glob("[!.]*"))]

    def write_report(self, report: Report) -> None:
        """Write the report, once. Raises OSError."""
        self._report.write(report)

    def shown(self, path: Path) -> str:
        """Return a path as those of a contract are: relative to the working folder where it lies below it."""
        return path_text(path.relative_to(self._workdir) if path.is_relative_to(self._workdir) else path)


def asked_sha(invocation: Invocation) -> str | None:
    """Return the commit that the invocation names, in lower case, None where it names none."""
    sha = invocation.commit_sha or ""
    return sha.lower() if _SHA.fullmatch(sha) else None


def path_text(path: Path) -> str:
    """Return a path as text that any document can hold; names on disk may be any bytes."""
    return os.fsencode(path).decode(errors="backslashreplace")
