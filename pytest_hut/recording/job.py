"""The folder of one job and the names of what lies in it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_hut.contracts.guardrails import check_job_id
from pytest_hut.errors import ConfigError, InfrastructureError

SESSION_JOURNAL = "session.jsonl"


@dataclass(frozen=True)
class Job:
    """What is done under one id, and where its evidence goes. Plain strings, so that workers can be told."""

    job_id: str
    lane: str
    commit_sha: str
    folder: str
    stamp: str
    """UTC start of the job as `20260213_215705`, part of every file name."""
    role: str = "runner"
    """Who does it; every file name begins with that."""

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.folder)

    def evidence_name(self, area: str, what: str, suffix: str) -> str:
        """Return a file name of the agreed form: role, area, what, UTC stamp."""
        return f"{self.role}_{area}_{what}_{self.stamp}_utc{suffix}"

    def slot_journal(self, slot_id: str, worker: str) -> Path:
        """Return the journal that one worker writes about one slot."""
        return self.path / slot_id / f"events_{worker or 'main'}.jsonl"


def new_job(
    evidence_dir: Path,
    job_id: str | None,
    lane: str,
    root: Path,
    *,
    role: str = "runner",
    commit_sha: str | None = None,
) -> Job:
    """Make the folder of a new job; an existing folder is never used again.

    Args:
        root: where the commit is looked up if `commit_sha` does not say it.

    Raises:
        ConfigError: `job_id` is no plain name.
        InfrastructureError: the folder cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    if job_id is None:
        job_id = f"HUT-{stamp.replace('_', 'T')}Z-{os.getpid()}"
    try:
        check_job_id(job_id)
    except ValueError as error:
        raise ConfigError(f"--hut-job-id={job_id}: {error}") from None
    commit_sha = commit_sha or commit_of(root)
    name = f"{job_id}_{commit_sha[:12]}"
    for number in range(1, 1000):
        folder = evidence_dir / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if evidence_dir.is_dir():
                continue
            raise InfrastructureError(
                f"the evidence folder {evidence_dir} is a file; choose another with --hut-evidence"
            ) from None
        except OSError as error:
            raise InfrastructureError(
                f"the evidence folder {folder} cannot be made ({error.strerror}); choose another with --hut-evidence"
            ) from None
        return Job(job_id, lane, commit_sha, str(folder.absolute()), stamp, role)
    raise InfrastructureError(f"{evidence_dir} has 999 runs of {name} already; give a new --hut-job-id")


def commit_of(folder: Path) -> str:
    """Return the commit SHA checked out in `folder`, or `none` outside a git work tree."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    sha = done.stdout.strip()
    return sha if done.returncode == 0 and re.fullmatch(r"[0-9a-f]{40,64}", sha) else "none"
