"""The slot lock: the kernel's flock, shared with the `flock` command and with other users."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_hut.errors import InfrastructureError, SlotBusy
from pytest_hut.lease.lockfile import LockFile

HOLD = """
import sys, pathlib
from pytest_hut.lease.lockfile import LockFile
lock = LockFile(pathlib.Path(sys.argv[1]), "JOB-7").acquire(10)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hut-01.lock"


def hold_elsewhere(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_flock_command_is_kept_out_and_let_in(path: Path) -> None:
    with LockFile(path).acquire(1):
        assert subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 1
    assert subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 0


def test_the_flock_command_keeps_us_out(path: Path) -> None:
    # The shell's `read` holds the lock until its standard input ends.
    process = subprocess.Popen(
        ["flock", str(path), "sh", "-c", "echo held; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    waited: list[str] = []
    with pytest.raises(SlotBusy, match="flock"):
        LockFile(path).acquire(0.1, waited.append)
    assert len(waited) == 1
    assert str(path) in waited[0] and f"pid {process.pid}" in waited[0]
    process.communicate("\n")
    with LockFile(path).acquire(5):
        pass


def test_a_waiter_gets_it_when_the_holder_is_killed(path: Path) -> None:
    holder = hold_elsewhere(path)
    waited: list[str] = []

    def kill_holder(message: str) -> None:
        waited.append(message)
        os.kill(holder.pid, signal.SIGKILL)

    with LockFile(path).acquire(10, kill_holder) as lock:
        assert lock.held
    assert "JOB-7" in waited[0] and f"pid {holder.pid}" in waited[0]
    holder.wait()


def test_the_holder_tells_who_it_is(path: Path) -> None:
    with LockFile(path, "JOB-1").acquire(1) as lock:
        for observer in (lock, LockFile(path)):
            holder = observer.holder()
            assert holder is not None
            assert (holder.pid, holder.job) == (os.getpid(), "JOB-1")
    assert LockFile(path).holder() is None
    assert path.exists(), "a lock file is never deleted"
    assert path.read_text() == ""


def test_stale_text_is_not_believed(path: Path) -> None:
    path.write_text('{"pid": 1, "user": "ghost", "job": "OLD"}\n')
    process = subprocess.Popen(
        ["flock", str(path), "sh", "-c", "echo held; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    holder = LockFile(path).holder()
    process.communicate("\n")
    assert holder is not None
    assert holder.pid == process.pid
    assert holder.job is None


def test_every_user_may_take_it_whatever_the_umask(path: Path) -> None:
    old = os.umask(0o077)
    try:
        LockFile(path).acquire(1).release()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_file_replaced_while_waiting_is_not_mistaken_for_the_lock(path: Path) -> None:
    holder = hold_elsewhere(path)

    def replace(_message: str) -> None:
        path.unlink()
        path.touch()
        holder.communicate("")

    with LockFile(path).acquire(10, replace):
        assert subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 1


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "folder", "fifo"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "symlink":
        target.write_text("precious")
        path.symlink_to(target)
    elif kind == "dangling symlink":
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)

    with pytest.raises(InfrastructureError, match=str(path)):
        LockFile(path).acquire(0.1)
    if kind == "symlink":
        assert target.read_text() == "precious"
    else:
        assert not target.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as two other users")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_another_users_file_in_a_sticky_folder(tmp_path: Path, mode: int) -> None:
    """As in /var/lock, where fs.protected_regular forbids opening it with O_CREAT."""
    folder = tmp_path / "lock"
    folder.mkdir()
    folder.chmod(0o1777)
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    path = folder / "hut-01.lock"
    path.touch()
    path.chmod(mode)
    os.chown(path, 12345, 12345)
    script = (
        "import os, pathlib, sys; from pytest_hut.lease.lockfile import LockFile; os.setgid(23456); os.setuid(23456);"
        "LockFile(pathlib.Path(sys.argv[1])).acquire(1); print('held')"
    )

    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)

    assert done.stdout == "held\n", done.stderr
