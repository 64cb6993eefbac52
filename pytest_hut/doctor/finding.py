"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """What was looked at, e.g. `disk` or `lock hut-01`."""
    ok: bool
    text: str
    """What was found; where it is not well, also what to do about it."""
