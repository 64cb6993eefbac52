"""The guardrails of a job: names that stay in their folder, the agreed files, the time each role may take.

Light, because every pytest run of a machine loads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SHARED_FOLDER = Path("/tmp")
"""Where locks and cancel flags of jobs are, for every user of the host."""

JOB_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
JOB_ID_RULE = "1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit: it becomes a file name"

LOCK_KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
LOCK_KEY_RULE = (
    "1 to 100 of A-Z, a-z, 0-9, '.', '_', '+' and '-', beginning with a letter or digit: it becomes a file name"
)


@dataclass(frozen=True)
class TimeLimit:
    """How long a job of one role may take, in seconds."""

    default_s: int
    """What a requester puts in who has no better idea."""
    maximum_s: int


TIME_LIMITS = {"infra": TimeLimit(600, 3600), "runner": TimeLimit(1800, 14400)}


def check_job_id(job_id: str) -> str:
    """Return `job_id` if it may become a file name, else raise ValueError."""
    if not JOB_ID_PATTERN.fullmatch(job_id):
        raise ValueError(f"a job id is {JOB_ID_RULE}")
    return job_id


def check_lock_key(lock_key: str) -> str:
    """Return `lock_key` if it may become a file name, else raise ValueError."""
    if not LOCK_KEY_PATTERN.fullmatch(lock_key):
        raise ValueError(f"a lock key is {LOCK_KEY_RULE}")
    return lock_key


def job_lock(role: str, lock_key: str, folder: Path = SHARED_FOLDER) -> Path:
    """Return the lock that a job of this role and key holds while it is active."""
    return folder / f"codex-{role}-{check_lock_key(lock_key)}.lock"


def cancel_flag(job_id: str, folder: Path = SHARED_FOLDER) -> Path:
    """Return the file whose existence asks the job to end."""
    return folder / f"codex-cancel-{check_job_id(job_id)}.flag"
