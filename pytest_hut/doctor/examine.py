"""All checks, in the order in which a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench
from pytest_hut.bench.places import find_config
from pytest_hut.contracts.guardrails import SHARED_FOLDER
from pytest_hut.doctor import host, slots
from pytest_hut.doctor.finding import Finding
from pytest_hut.errors import ConfigError

LEAST_SHARED_BYTES = 16 * 1024**2
"""Locks and cancel flags of jobs are small."""


def examine(config: str | None, folder: Path) -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is known.

    Args:
        config: what `--config` names, if anything.
        folder: the current folder, where reports are made.
    """
    yield host.who_and_where()
    yield from host.versions()
    yield host.git_here(folder)
    bench, finding = _bench(config, folder)
    yield finding
    yield host.room_for("evidence", folder / (bench or Bench()).evidence_dir)
    yield host.room_for("jobs", SHARED_FOLDER, LEAST_SHARED_BYTES)
    yield slots.devices(bench)
    if bench is None:
        return
    yield from slots.credentials(bench)
    for slot in bench.slots.values():
        yield slots.port(slot)
        yield slots.lock(slot)
        yield slots.relay(slot, bench)


def _bench(config: str | None, folder: Path) -> tuple[Bench | None, Finding]:
    try:
        path = find_config(config, folder)
        if path is None:
            return None, Finding("bench", False, "there is no slots.toml; copy slots.example.toml to slots.toml")
        bench = load_bench(path)
    except ConfigError as error:
        return None, Finding("bench", False, str(error))
    return bench, Finding("bench", True, f"{path}: {', '.join(bench.slots)}")
