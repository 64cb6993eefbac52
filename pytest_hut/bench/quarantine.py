"""Slots that a running session does not trust, told to whoever asks `hut slots`.

One small file per slot in the user's state folder; it counts only while the session that wrote it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_hut.bench.ids import check_slot_id
from pytest_hut.bench.places import user_state_dir


@dataclass(frozen=True)
class Quarantine:
    """Why a slot is not used, and until when."""

    slot: str
    job: str
    reason: str
    since_utc: str
    until: str
    pid: int

    def __str__(self) -> str:
        return f"in quarantine since {self.since_utc}: {self.reason}; until {self.until}"


def tell_quarantine(quarantine: Quarantine) -> None:
    """Write it down. Raises OSError."""
    path = _path(quarantine.slot)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(quarantine)), encoding="utf-8")
    draft.replace(path)


def quarantine_of(slot_id: str) -> Quarantine | None:
    """Return the quarantine of a slot, None where there is none or its session is gone."""
    try:
        data = json.loads(_path(slot_id).read_text(encoding="utf-8"))
        quarantine = Quarantine(**data)
        os.kill(quarantine.pid, 0)
    except PermissionError:
        return quarantine  # It lives, and belongs to somebody else.
    except (OSError, ValueError, TypeError):
        return None
    return quarantine


def end_quarantine(slot_id: str) -> None:
    """Forget the quarantine that this process wrote."""
    quarantine = quarantine_of(slot_id)
    if quarantine is not None and quarantine.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            _path(slot_id).unlink()


def _path(slot_id: str) -> Path:
    return user_state_dir() / "quarantine" / f"{check_slot_id(slot_id)}.json"
