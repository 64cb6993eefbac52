"""Compressed flash content, made once on a machine and shared by all slots, workers and sessions."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

LEVEL = 9
"""The wire is slower than any processor by far."""

CACHE_LIMIT = 256 << 20
"""Bytes on disk; the entries not used for the longest time go first."""

WORTH_KEEPING = 0x10000
"""Less than this is compressed faster than a file is opened and checked."""

_SUFFIX = ".z"

RECENT_LIMIT = 32 << 20
"""Bytes that a process keeps in memory: the slots it flashes with the same images, and the children it makes for them,
need not even look on the disk."""

_recent: dict[str, bytes] = {}
_recent_lock = threading.Lock()


def compressed(data: bytes, folder: Path | None) -> bytes:
    """Return `data` as a zlib stream, from the cache in `folder` if it is there, else made and kept there.

    Several processes that want the same at once wait for the first. A damaged entry is made anew; a folder that cannot
    be used costs time and nothing else.
    """
    if folder is None or len(data) < WORTH_KEEPING:
        return zlib.compress(data, LEVEL)
    digest = hashlib.sha256(data).hexdigest()
    with _recent_lock:
        recent = _recent.get(digest)
    if recent is not None:
        return recent
    path = folder / (digest + _SUFFIX)
    with _made_by_one(path):
        kept = _read(path, data)
        if kept is None:
            kept = zlib.compress(data, LEVEL)
            _keep(path, kept)
    _remember(digest, kept)
    return kept


def _remember(digest: str, packed: bytes) -> None:
    with _recent_lock:
        _recent[digest] = packed
        while sum(map(len, _recent.values())) > RECENT_LIMIT:
            del _recent[next(iter(_recent))]


@contextlib.contextmanager
def _made_by_one(path: Path) -> Iterator[None]:
    """Let one process at a time look for, or make, this entry."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.parent / f"lock-{path.name[:2]}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path, data: bytes) -> bytes | None:
    try:
        kept = path.read_bytes()
        if zlib.decompress(kept) != data:
            return None
        os.utime(path)
    except (OSError, zlib.error):
        return None
    return kept


def _keep(path: Path, made: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(made)
        draft.replace(path)
        _bound(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()


def _bound(folder: Path) -> None:
    """Remove the oldest entries until the rest is small enough; drafts of processes that died count as entries."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removes things, too
            if _SUFFIX in path.name:
                found = path.stat()
                entries.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in entries)
    for used, size, path in sorted(entries):
        if total <= CACHE_LIMIT:
            return
        if time.time() - used > 1:
            path.unlink(missing_ok=True)
            total -= size
