"""What a worker is told about its place in the session. Plain data, so that it can cross a process boundary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_hut.bench.models import Bench
from pytest_hut.recording.job import Job


@dataclass(frozen=True)
class Seat:
    """A worker's place."""

    slot: str
    session_slots: list[str]
    """Those of all workers, in order."""
    commit: str | None = None
    """The only commit whose firmware may be flashed; None where that does not matter."""
    worker: str = ""
    """xdist's name of the worker; empty in the only process."""
    errands: bool = False
    """Whether the scheduler of the bench hands out the tests, and errands between them."""
    lock_office: str = ""
    """Where the session gives out the locks it holds; empty where the worker takes them itself."""
    waited_s: dict[str, float] = field(default_factory=dict)
    """How long the session waited for each lock, in seconds."""
    failures: int = 0
    """Failures of the bench in a row that an earlier worker of the slot left behind."""


def input_for_worker(bench: Bench, job: Job, seat: Seat) -> str:
    """Return the text that takes all of it to a worker's process."""
    return json.dumps({"bench": bench.model_dump_json(), "job": asdict(job), "seat": asdict(seat)})


def read_input(text: str) -> tuple[Bench, Job, Seat]:
    """Read what `input_for_worker` wrote."""
    data: dict[str, Any] = json.loads(text)
    return Bench.model_validate_json(data["bench"]), Job(**data["job"]), Seat(**data["seat"])
