"""What a test needs, read from its markers and fixtures; and how workers tell it to the controller."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pytest_hut.bench.models import Slot
from pytest_hut.scheduling.needs import Needs, SlotFacts

NEEDS_FILE = ".needs.json"
"""In the job's folder while the session runs; hidden, since it is no evidence."""


def facts_of(slot: Slot) -> SlotFacts:
    """Return what a slot has, for the scheduler."""
    return SlotFacts(slot.id, slot.chip, frozenset(slot.features))


def firmware_path(item: pytest.Item) -> Path | None:
    """Return the firmware a test names in its marker or on the command line, None where it takes the default."""
    for marker in item.iter_markers("hut"):
        if "firmware" in marker.kwargs:
            return item.path.parent / str(marker.kwargs["firmware"])
    option: str | None = item.config.getoption("hut_firmware")
    return item.config.invocation_params.dir / option if option else None


def needs_of(item: pytest.Item) -> Needs:
    """Return what a collected test needs."""
    fixtures = getattr(item, "fixturenames", ())
    chips: tuple[str, ...] | None = None
    features: set[str] = set()
    count = 2 if "hut_slots" in fixtures else 1
    counts = [marker.kwargs["count"] for marker in item.iter_markers("hut") if "count" in marker.kwargs]
    for marker in item.iter_markers("hut"):
        named = _words(marker.kwargs.get("chip"))
        if named:
            chips = named if chips is None else tuple(chip for chip in chips if chip in named)
        features |= set(_words(marker.kwargs.get("features")))
    callspec = getattr(item, "callspec", None)
    return Needs(
        node_id=item.nodeid,
        uses_slot="hut_held_slot" in fixtures,
        chips=chips,
        features=tuple(sorted(features)),
        firmware=str(firmware_path(item) or "the default") if "flashed_firmware" in fixtures else None,
        count=int(counts[0]) if counts else count,
        bound_to=callspec.params.get("hut_held_slot") if callspec is not None else None,
    )


def tell_needs(folder: Path, items: Sequence[pytest.Item]) -> None:
    """Write the needs of a worker's tests where the controller looks; all workers collect the same."""
    draft = folder / f"{NEEDS_FILE}.{os.getpid()}"
    draft.write_text(json.dumps([asdict(needs_of(item)) for item in items]), encoding="utf-8")
    draft.replace(folder / NEEDS_FILE)


def read_needs(folder: Path) -> list[Needs]:
    """Read what `tell_needs` wrote."""
    data: list[dict[str, Any]] = json.loads((folder / NEEDS_FILE).read_text(encoding="utf-8"))
    return [
        Needs(
            **{
                **entry,
                "chips": None if entry["chips"] is None else tuple(entry["chips"]),
                "features": tuple(entry["features"]),
            }
        )
        for entry in data
    ]


def _words(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
