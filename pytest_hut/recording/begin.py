"""The beginning of a job on slots: the first event of its journal."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from pytest_hut.bench.models import Slot
from pytest_hut.events.types import SessionStarted
from pytest_hut.host import user_name
from pytest_hut.recording.job import Job


def session_started(job: Job, slots: Sequence[Slot], thread_ref: str | None = None) -> SessionStarted:
    """Return what is to be known of a job that this process begins on `slots`."""
    return SessionStarted(
        job_id=job.job_id,
        lane=job.lane,
        commit_sha=job.commit_sha,
        lock_key="+".join(slot.id for slot in slots),
        slots=[slot.id for slot in slots],
        virtual=all(slot.virtual for slot in slots),
        pid=os.getpid(),
        stamp=job.stamp,
        thread_ref=thread_ref,
        hostname=socket.gethostname(),
        user=user_name(),
    )
