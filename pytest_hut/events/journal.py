"""An append-only JSON-lines file of events that outlives a crash of its writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.events.types import Event, event_from_json


class Journal:
    """The one writer of one journal file. A killed process loses at most the line it was writing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, event: Event) -> None:
        """Put `event` on disk (handed to the kernel) before returning. Raises OSError, e.g. on a full disk."""
        line = json.dumps(event.to_json(), ensure_ascii=False) + "\n"
        os.write(self._fd, line.encode("utf-8", errors="replace"))

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def read_journal(path: Path) -> Iterator[Event]:
    """Yield the events of a journal in order; a line cut short by a crash, or of an unknown kind, is passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            data = json.loads(line)
            event = event_from_json(data) if isinstance(data, dict) else None
        except (ValueError, TypeError):
            continue
        if event is not None:
            yield event
