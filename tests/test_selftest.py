"""`hut selftest locks`: it proves what it says, and finds locks out that do not lock."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_rig import flock_gets, held_by_flock
from evidence_rig import hut_here

from pytest_hut.bench.ids import default_lock_path
from pytest_hut.errors import InfrastructureError
from pytest_hut.lease import selftest
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.lease.selftest import run_lock_checks

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HUT_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_command_proves_it_and_writes_it_down(tmp_path: Path) -> None:
    code, said = hut_here("selftest", "locks", "--evidence", "proof")
    assert code == 0, said
    lines = said.splitlines()
    assert len([line for line in lines if re.match(r"\S+Z ok  ", line)]) == 5
    assert lines[-2].endswith("all ok")
    path = Path(lines[-1].removeprefix("evidence: "))
    assert re.fullmatch(r"proof/HUT-\S+_none/runner_hil_locks_selftest_\d{8}_\d{6}_utc\.log", str(path))
    assert path.read_text().splitlines() == lines[:-1]
    pids = set(re.findall(r"pid (\d+)", said))
    assert len(pids) == 8, "each holder is a process of its own"


def test_the_locks_of_slots_are_those_of_the_bench(tmp_path: Path) -> None:
    locks = [tmp_path / "a.lock", tmp_path / "b.lock"]
    Path("slots.toml").write_text(
        "".join(f'[slots.hut-0{n}]\nvirtual = true\nlock_path = "{lock}"\n' for n, lock in enumerate(locks, start=1))
    )
    code, said = hut_here("selftest", "locks", "--slots", "hut-01,hut-02")
    assert code == 0, said
    assert f"locks: {locks[0]}, {locks[1]}\n" in said
    assert all(lock.is_file() and LockFile(lock).holder() is None for lock in locks)


def test_without_a_bench_the_agreed_files_are_used() -> None:
    slot_ids = ("selftest-97", "selftest-98")
    try:
        code, said = hut_here("selftest", "locks", "--slots", ",".join(slot_ids))
        assert code == 0, said
        assert "locks: /var/lock/hut-selftest-97.lock, /var/lock/hut-selftest-98.lock" in said
    finally:
        for slot_id in slot_ids:
            default_lock_path(slot_id).unlink(missing_ok=True)


def test_a_slot_that_stays_busy_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    Path("slots.toml").write_text(f'[slots.hut-01]\nvirtual = true\nlock_path = "{lock}"\n')
    with held_by_flock(lock) as script:
        code, said = hut_here("selftest", "locks", "--slots", "hut-01,hut-02", "--lock-timeout", "0")
    assert code == 4
    assert f"held by pid {script.pid}" in said


def test_a_lock_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "link.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InfrastructureError, match="symbolic link"):
        list(run_lock_checks(tmp_path / "link.lock", tmp_path / "b.lock", WAIT_S))


def test_locks_that_do_not_lock_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = (
        "import sys, time\nprint('held', time.monotonic(), flush=True)\nsys.stdin.read()\n"
        "print('released', time.monotonic(), flush=True)"
    )
    monkeypatch.setattr(selftest, "_holder", lambda path, wait_s: selftest._Process([sys.executable, "-c", careless]))
    checks = list(run_lock_checks(tmp_path / "a.lock", tmp_path / "b.lock", WAIT_S))
    assert [check.ok for check in checks] == [False, True, False, False, False]
    assert "got a lock that somebody else held" in checks[0].measured
    assert "`flock -n` ended with 0" in checks[2].measured


def test_one_lock_for_two_slots_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "START_S", 1.0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    one, two = tmp_path / "folder" / "a.lock", tmp_path / "link" / "a.lock"
    overlap = list(run_lock_checks(one, two, 0.0))[1]
    assert (overlap.ok, overlap.measured) == (False, f"{one} and {two} are one lock")
    assert flock_gets(one)


def test_without_the_flock_command_it_says_what_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = list(run_lock_checks(tmp_path / "a.lock", tmp_path / "b.lock", WAIT_S))
    assert [check.ok for check in checks] == [True, True, False, False, True]
    assert "install util-linux" in checks[2].measured


@pytest.mark.parametrize("slots", ["hut-01", "hut-01,hut-01", "hut-01,../x", "a,b,c"])
def test_slots_that_will_not_do(slots: str) -> None:
    code, said = hut_here("selftest", "locks", "--slots", slots)
    assert (code, said.count("\n")) == (2, 1)
    assert slots in said


def test_a_holder_ends_with_whoever_started_it(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom pytest_hut.lease.selftest import _holder\n"
        f"holder = _holder(Path({str(lock)!r}), 5.0)\nholder.wait_for('held', 5.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == -9
    assert flock_gets(lock, wait_s=10)
