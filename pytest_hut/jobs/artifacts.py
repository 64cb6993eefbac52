"""What became of the artifacts that a job was expected to make."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from pytest_hut.contracts.report import ArtifactRecord
from pytest_hut.jobs.watch import Watch

PIECE = 1024 * 1024


def check_artifact(path: str, workdir: Path, began: float, watch: Watch) -> ArtifactRecord:
    """Look at one expected artifact; hashing it ends early when the job has to.

    Args:
        path: relative to `workdir`, or absolute; wherever links lead, it has to be below `workdir`.
        began: when the job began, in seconds since the epoch.
    """
    try:
        real = (workdir / path).resolve(strict=True)
        if workdir.resolve() not in real.parents:
            return ArtifactRecord(path=path, found=False, problem="leads out of the working folder")
        # Not blocking: it could be a FIFO.
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _hashed(path, fd, began, watch)
        finally:
            os.close(fd)
    except OSError as error:
        return ArtifactRecord(path=path, found=False, problem=(error.strerror or str(error)).lower())
    except (RuntimeError, ValueError):  # Links that lead in a circle, or a name that the locale cannot write.
        return ArtifactRecord(path=path, found=False, problem="cannot be a file")


def _hashed(path: str, fd: int, began: float, watch: Watch) -> ArtifactRecord:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "something else"
        return ArtifactRecord(path=path, found=False, problem=f"should be a file, and is {what}")
    digest = hashlib.sha256()
    size = 0
    while piece := os.read(fd, PIECE):
        digest.update(piece)
        size += len(piece)
        if watch.look():
            return ArtifactRecord(path=path, found=True, size=found.st_size, problem="the job ended while it was read")
    return ArtifactRecord(
        path=path,
        found=True,
        size=size,
        sha256=digest.hexdigest(),
        older_than_job=found.st_mtime < began,
    )
