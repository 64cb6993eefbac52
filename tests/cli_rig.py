"""The `hut` command as a user runs it, in a laboratory."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pexpect
from lab import Lab

HUT = [sys.executable, "-m", "pytest_hut.cli"]
PATIENCE_S = 15.0
ONE_ERROR = re.compile(r"hut: error: [^\n]+\n")

Finished = subprocess.CompletedProcess[str]


def hut(lab: Lab, *arguments: str) -> Finished:
    """Run `hut` to its end, with nothing to read."""
    return subprocess.run(
        [*HUT, *arguments],
        cwd=lab.folder,
        env=lab.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@contextmanager
def running_hut(lab: Lab, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `hut` and go on; whatever is left of it at the end is killed."""
    process = subprocess.Popen(
        [*HUT, *arguments],
        cwd=lab.folder,
        env=lab.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hut_on_a_terminal(lab: Lab, *arguments: str) -> pexpect.spawn[str]:
    """Start `hut` on a terminal of its own."""
    return pexpect.spawn(
        HUT[0],
        [*HUT[1:], *arguments],
        cwd=str(lab.folder),
        env={**lab.environment, "TERM": "xterm"},
        timeout=PATIENCE_S,
        encoding="utf-8",
        codec_errors="replace",
        dimensions=(40, 160),
    )


def read_until(stream: IO[bytes] | None, wanted: bytes) -> bytes:
    """Return what a pipe gives up to and including the first `wanted`."""
    assert stream is not None
    seen = bytearray()
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in seen:
        assert select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0], bytes(seen)
        piece = os.read(stream.fileno(), 65536)
        assert piece, f"ended before {wanted!r}: {bytes(seen)!r}"
        seen += piece
    return bytes(seen)


@contextmanager
def held_by_flock(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a lock with the `flock` command while inside, or until its standard input is closed."""
    process = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    read_until(process.stdout, b"held")
    try:
        yield process
    finally:
        process.communicate()


def flock_gets(lock: Path, wait_s: float = 0.0) -> bool:
    """Whether the `flock` command gets the lock within that time."""
    return subprocess.run(["flock", "-w", str(wait_s), str(lock), "true"], check=False).returncode == 0
