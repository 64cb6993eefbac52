"""Slot ids, and the lock path that follows from one: all that a tool has to know which reads no slots.toml."""

from __future__ import annotations

import re
from pathlib import Path

LOCK_FOLDER = Path("/var/lock")

SLOT_ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def check_slot_id(slot_id: str) -> str:
    """Return `slot_id` if it is a plain name, else raise ValueError.

    It becomes part of file names (lock, evidence), so it must not be able to leave a folder.
    """
    if not SLOT_ID_PATTERN.fullmatch(slot_id):
        raise ValueError(
            "a slot id is 1 to 32 of the characters a-z, 0-9, - and _, beginning with a letter or digit, e.g. hut-01"
        )
    return slot_id


def default_lock_path(slot_id: str) -> Path:
    """Return the lock path that all tools of the bench agree on: `hut-01` has the id `01`, so `hut-01.lock`."""
    return LOCK_FOLDER / f"hut-{check_slot_id(slot_id).removeprefix('hut-')}.lock"
