"""`hut selftest locks`: prove that the locks of slots do what the bench relies on."""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.ids import default_lock_path
from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench
from pytest_hut.bench.places import find_config
from pytest_hut.cli.exits import INFRASTRUCTURE, OK
from pytest_hut.cli.recorded import job_for
from pytest_hut.events.types import utc_now
from pytest_hut.host import user_name
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.lease.selftest import run_lock_checks
from pytest_hut.recording.report import shown_path


def run(options: argparse.Namespace) -> int:
    """Run the checks; the log is evidence. Raises SlotBusy: a slot is held by others for too long."""
    config = find_config(options.config, Path.cwd())
    bench = load_bench(config) if config else None
    job = job_for(options.evidence, bench)
    path = job.path / job.evidence_name("hil_locks", "selftest", ".log")
    all_ok = True
    with path.open("x", encoding="utf-8", errors="replace") as log, _locks(options.slots, bench) as locks:

        def tell(text: str) -> None:
            print(text, flush=True)
            log.write(text + "\n")
            log.flush()

        tell(f"self-test of locks on {socket.gethostname()} by {user_name()}, begun {utc_now()}")
        tell(f"locks: {', '.join(str(lock) for lock in locks)}")
        for lock in locks:
            LockFile(lock, job.job_id).acquire(options.lock_timeout, _tell_waiting).release()
        for check in run_lock_checks(*locks, options.lock_timeout):
            all_ok &= check.ok
            tell(f"{utc_now()} {'ok' if check.ok else '!!'}  {check.what}: {check.measured}")
        tell(f"{utc_now()} {'all ok' if all_ok else 'FAILED: do not rely on the locks of this host'}")
    print(f"evidence: {shown_path(path)}")
    return OK if all_ok else INFRASTRUCTURE


def _tell_waiting(text: str) -> None:
    sys.stderr.write(f"hut: {text}\n")


@contextlib.contextmanager
def _locks(slot_ids: list[str] | None, bench: Bench | None) -> Iterator[tuple[Path, Path]]:
    """Yield the locks of two slots, or two in a folder of their own."""
    if slot_ids is None:
        with tempfile.TemporaryDirectory(prefix="hut-selftest-") as folder:
            yield Path(folder) / "hut-01.lock", Path(folder) / "hut-02.lock"
        return
    known = bench.slots if bench else {}
    first, second = (known[slot_id].lock if slot_id in known else default_lock_path(slot_id) for slot_id in slot_ids)
    yield first, second
