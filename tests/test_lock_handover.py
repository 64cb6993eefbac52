"""A lock that one process took and another one of the session uses."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pytest_hut.errors import InfrastructureError
from pytest_hut.lease.handover import LockOffice, borrowed_lock
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.lease.several import HeldLocks, take_any, take_each

NOBODY = 65534


def borrower(pipe: Connection, user: int) -> None:
    """Ask for a lock at the address that comes, say how it went, and keep it until told to let go."""
    if user:
        os.setuid(user)
    try:
        with borrowed_lock(pipe.recv(), "hut-01") as descriptor:
            pipe.send(f"has {os.fstat(descriptor).st_ino}")
            pipe.recv()
    except InfrastructureError as error:
        pipe.send(str(error))


@pytest.fixture
def held(tmp_path: Path) -> HeldLocks:
    return take_each({"hut-01": LockFile(tmp_path / "1.lock"), "hut-02": LockFile(tmp_path / "2.lock")}, 1)


def start(user: int = 0) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    """Start a borrower, before there is an office with a thread of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=borrower, args=(there, user))
    process.start()
    there.close()
    return here, process


def test_the_lock_lasts_until_the_last_of_both_lets_go(tmp_path: Path) -> None:
    pipe, process = start()
    held = take_each({"hut-01": LockFile(tmp_path / "1.lock")}, 1)
    with closing(LockOffice(held)) as office:
        pipe.send(office.address)
        assert pipe.recv() == f"has {(tmp_path / '1.lock').stat().st_ino}"
    seen_by_others = LockFile(tmp_path / "1.lock")

    os.close(held.locks["hut-01"].fileno())  # As when the session is killed.
    assert seen_by_others.holder() is not None
    process.kill()
    process.join()

    assert seen_by_others.holder() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_lock(tmp_path: Path) -> None:
    pipe, process = start(NOBODY)
    held = take_each({"hut-01": LockFile(tmp_path / "1.lock")}, 1)
    with closing(LockOffice(held)) as office:
        pipe.send(office.address)
        assert pipe.recv() == "the session does not hold the lock of hut-01"
    process.join()
    held.release()


def test_what_is_not_held_cannot_be_borrowed(held: HeldLocks) -> None:
    with closing(LockOffice(held)) as office:
        held.locks["hut-02"].release()
        for slot in ("hut-02", "hut-03"):
            with (
                pytest.raises(InfrastructureError, match=f"does not hold the lock of {slot}"),
                borrowed_lock(office.address, slot),
            ):
                pass
    with pytest.raises(InfrastructureError, match="cannot be had"), borrowed_lock(office.address, "hut-01"):
        pass
    held.release()


def test_waiting_for_any_writes_to_no_lock(tmp_path: Path) -> None:
    locks = {name: LockFile(tmp_path / name, "WAITING") for name in ("1.lock", "2.lock", "3.lock")}
    with LockFile(tmp_path / "1.lock", "OTHER").acquire(1), LockFile(tmp_path / "2.lock", "OTHER").acquire(1):
        with LockFile(tmp_path / "3.lock").acquire(1):
            pass
        before = (tmp_path / "3.lock").stat().st_mtime_ns

        with pytest.raises(InfrastructureError, match=r"2 slots are needed and 1 of .* free.*job OTHER"):
            take_any(locks, 2, 0.3)

        assert (tmp_path / "3.lock").stat().st_mtime_ns == before
