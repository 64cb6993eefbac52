"""How long tests and flashes took before: a small file of the user, which may be missing, old or damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_TEST_S = 5.0
"""What a test is taken to last when nothing is known about any."""

DEFAULT_FLASH_S = 20.0

NEW_WEIGHT = 0.5
"""How much the newest duration counts against all before."""

MOST_TESTS = 20_000
"""Kept per project; the file must not grow for ever."""


def history_path(state: Path, project: Path) -> Path:
    """Return where the durations of the project in the folder `project` are kept, below the state folder."""
    return state / "durations" / f"{hashlib.sha256(str(project).encode()).hexdigest()[:16]}.json"


class History:
    """Durations of one project; `load`, ask, `note`, `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, float] = {}
        self._flash_s: float | None = None
        self._new: dict[str, float] = {}
        self._new_flashes: list[float] = []

    @classmethod
    def load(cls, path: Path) -> History:
        """Read it; what cannot be understood is as good as absent."""
        history = cls(path)
        history._read()
        return history

    def seconds(self, node_id: str) -> float:
        """Return how long a test is expected to take without flashing; an unknown one takes as long as most."""
        known = self._tests.get(node_id)
        if known is not None:
            return known
        return statistics.median(self._tests.values()) if self._tests else DEFAULT_TEST_S

    @property
    def flash_s(self) -> float:
        """How long a flash is expected to take."""
        return DEFAULT_FLASH_S if self._flash_s is None else self._flash_s

    def note(self, node_id: str, seconds: float) -> None:
        """Note how long a test took, without flashing."""
        self._new[node_id] = seconds

    def note_flash(self, seconds: float) -> None:
        """Note how long a flash took that wrote something."""
        self._new_flashes.append(seconds)

    def save(self) -> None:
        """Write what was noted beside what other sessions wrote meanwhile. Raises OSError."""
        if not self._new and not self._new_flashes:
            return
        self._read()
        for node_id, seconds in self._new.items():
            before = self._tests.pop(node_id, seconds)  # Popped, so that the newest come last.
            self._tests[node_id] = round(before + NEW_WEIGHT * (seconds - before), 4)
        if self._new_flashes:
            newest = statistics.median(self._new_flashes)
            before = newest if self._flash_s is None else self._flash_s
            self._flash_s = round(before + NEW_WEIGHT * (newest - before), 4)
        tests = dict(list(self._tests.items())[-MOST_TESTS:])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        draft.write_text(json.dumps({"tests": tests, "flash_s": self._flash_s}), encoding="utf-8")
        draft.replace(self._path)
        self._new, self._new_flashes = {}, []

    def _read(self) -> None:
        data: Any = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            data = json.loads(self._path.read_text(encoding="utf-8"))
        data = data if isinstance(data, Mapping) else {}
        tests = data.get("tests")
        self._tests = (
            {str(key): float(value) for key, value in tests.items() if _is_time(value)}
            if (isinstance(tests, Mapping))
            else {}
        )
        flash_s = data.get("flash_s")
        self._flash_s = float(flash_s) if _is_time(flash_s) else None


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
