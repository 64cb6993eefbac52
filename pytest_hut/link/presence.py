"""Wait for a device path to appear, told by the kernel (inotify) instead of asking again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

RECHECK_S = 1.0
"""Looked at again at least this often: a device in use gives no sign when it is free, and not every /dev reports."""

_CHANGES = flags.CREATE | flags.MOVED_TO | flags.ATTRIB | flags.DELETE_SELF


def wait_until_usable(path: Path, attempt: Callable[[], bool], deadline: float) -> bool:
    """Call `attempt` whenever something changes around `path`, until it returns True or time is over.

    A by-id link comes and goes with its folder, its target may appear after it, and udev sets the owner of the
    target later still; so the nearest existing parents of both are watched.

    Args:
        deadline: on the `time.monotonic` clock.

    Returns:
        What the last attempt returned.
    """
    while True:
        with INotify() as watcher:
            for folder in _folders_to_watch(path):
                watcher.add_watch(folder, _CHANGES)
            # Looked at after the watches are set, so no change falls between.
            if attempt():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            watcher.read(timeout=max(1, int(min(left, RECHECK_S) * 1000)))


def _folders_to_watch(path: Path) -> set[Path]:
    folders = {_nearest_folder(path)}
    if path.is_symlink():
        folders.add(_nearest_folder(path.parent / path.readlink()))
    return folders


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())
