"""What a test needs, read from its markers and fixtures; and how workers tell it to the controller."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
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
    """Return what a collected test needs. Raises CollectError where its `hut` markers make no sense."""
    fixtures = getattr(item, "fixturenames", ())
    chips: tuple[str, ...] | None = None
    features: set[str] = set()
    uses_slot = "hut_held_slot" in fixtures
    counts = [2 if "hut_slots" in fixtures else 1]  # The marker nearest to the test goes before.
    for marker in reversed(list(item.iter_markers("hut"))):
        _check(item, marker)
        counts.append(marker.kwargs.get("count", counts[-1]))
        named = _words(marker.kwargs.get("chip"))
        if named:
            chips = named if chips is None else tuple(chip for chip in chips if chip in named)
        features |= set(_words(marker.kwargs.get("features")))
    callspec = getattr(item, "callspec", None)
    return Needs(
        node_id=item.nodeid,
        uses_slot=uses_slot,
        chips=chips,
        features=tuple(sorted(features)),
        firmware=str(firmware_path(item) or "the default") if "flashed_firmware" in fixtures else None,
        count=counts[-1] if uses_slot else 1,
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


def _check(item: pytest.Item, marker: pytest.Mark) -> None:
    for key, value in marker.kwargs.items():
        if key not in _MEANINGS:
            problem = f"there is no {key!r}; it takes {', '.join(_MEANINGS)}"
        elif not _MEANINGS[key][1](value):
            problem = f"{key} is {_MEANINGS[key][0]}, not {value!r}"
        else:
            continue
        raise pytest.Collector.CollectError(f"{item.nodeid}: mark hut: {problem}")
    if marker.args:
        raise pytest.Collector.CollectError(
            f"{item.nodeid}: mark hut: {marker.args[0]!r} has no name; it takes {', '.join(_MEANINGS)}"
        )


def _is_words(value: object) -> bool:
    if value is None or isinstance(value, str):
        return True
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(word, str) for word in value)


_MEANINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "chip": ("a chip or a list of chips", _is_words),
    "features": ("a word or a list of words", _is_words),
    "firmware": ("a path", lambda value: isinstance(value, (str, os.PathLike))),
    "count": (
        "a number of boards, at least 1",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
    ),
}


def _words(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
