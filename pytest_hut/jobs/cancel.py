"""The cancel flag of a job: a file in a folder that everybody may write to.

Whoever may write there may cancel: the contract asks for a file, not for an owner, since people cancel jobs of the CI
user. Only a regular file counts, and none is ever opened to see it, so a link leads nowhere.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_hut.contracts.guardrails import SHARED_FOLDER, cancel_flag
from pytest_hut.errors import ConfigError, InfrastructureError

CLOCK_TOLERANCE_S = 60.0
"""By how much the clocks of requester and runner may differ before a fresh flag looks stale."""


@dataclass(frozen=True)
class RaisedFlag:
    """A flag that is to be obeyed."""

    path: Path
    owner: str
    utc: str

    def __str__(self) -> str:
        return f"{self.path} (made by {self.owner} at {self.utc})"


class CancelFlag:
    """Looks at the flag of one job.

    A flag from before the request was meant for an earlier job of the same id: it is not obeyed. Where the request lies
    in the future the clocks are not to be trusted, and every flag is obeyed: better cancelled than not.
    """

    def __init__(self, job_id: str, request_utc: str, folder: Path = SHARED_FOLDER) -> None:
        self.path = cancel_flag(job_id, folder)
        requested = datetime.fromisoformat(request_utc).timestamp()
        self._not_before = requested - CLOCK_TOLERANCE_S if requested <= time.time() else 0.0

    def raised(self) -> RaisedFlag | None:
        """Return the flag if it is there and to be obeyed."""
        try:
            found = self.path.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_mtime < self._not_before:
            return None
        return RaisedFlag(self.path, _name_of(found.st_uid), _utc(found.st_mtime))

    def remove(self) -> bool:
        """Remove an obeyed flag, so that it is not taken for a new one; False where that is not ours to do."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def request_cancel(job_id: str, folder: Path = SHARED_FOLDER) -> Path:
    """Make the flag of a job, or make the one that is there count from now on; return its path.

    Raises:
        ConfigError: `job_id` is no job id.
        InfrastructureError: there is something else in its place, or it cannot be made.
    """
    try:
        path = cancel_flag(job_id, folder)
    except ValueError as error:
        raise ConfigError(f"{job_id!r}: {error}") from None
    while True:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
            return path
        except FileExistsError:
            pass
        except OSError as error:
            raise InfrastructureError(f"{path} cannot be made ({error.strerror})") from None
        try:
            _renew(path)
            return path
        except FileNotFoundError:
            continue  # The job obeyed it just now. This one is for whoever comes.


def _renew(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise InfrastructureError(f"{path} is not a regular file, so no job obeys it; remove it")
    try:
        os.utime(path, follow_symlinks=False)
    except PermissionError:
        raise InfrastructureError(
            f"{path} is there since {_utc(found.st_mtime)}, made by {_name_of(found.st_uid)}, and not ours to renew: a "
            "job that was requested later does not obey it; have it removed"
        ) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InfrastructureError(f"{path} cannot be renewed ({error.strerror})") from None


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _utc(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
