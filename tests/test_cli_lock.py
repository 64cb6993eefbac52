"""`hut lock`: one lock with the `flock` command, and a command that runs as if nobody stood before it."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from pathlib import Path

import pytest
from cli_rig import ONE_ERROR, PATIENCE_S, flock_gets, held_by_flock, hut, hut_on_a_terminal, read_until, running_hut
from lab import Lab

from pytest_hut.bench.ids import default_lock_path

SLOT = "hut-01"
HOLD = ["sh", "-c", "echo up; exec cat"]
"""Says that it runs, then runs until its standard input ends."""


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with one slot, whose lock is in the laboratory."""
    lab.write_slots(SLOT)
    return lab


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
    ],
    ids=["success", "failure", "killed", "terminated"],
)
def test_the_exit_code_is_that_of_the_command(bench: Lab, command: list[str], code: int) -> None:
    done = hut(bench, "lock", SLOT, "--", *command)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert flock_gets(bench.lock(SLOT))


def test_a_command_that_cannot_be_run(bench: Lab) -> None:
    for command, code in (("no-such-program", 127), (str(bench.folder), 126)):
        done = hut(bench, "lock", SLOT, "--", command)
        assert done.returncode == code
        assert ONE_ERROR.fullmatch(done.stderr)
        assert command in done.stderr


def test_the_command_gets_its_words_and_clean_signals(bench: Lab) -> None:
    done = hut(bench, "lock", SLOT, "--", "sh", "-c", 'echo "$@"; grep ^Sig /proc/self/status', "-", "--timeout", "--")
    words, *signals = done.stdout.splitlines()
    assert words == "--timeout --"
    masks = {name: int(mask, 16) for name, mask in (line.split(":") for line in signals if "Q" not in line)}
    assert masks["SigBlk"] == 0
    assert not masks["SigIgn"] & 1 << signal.SIGPIPE - 1


def test_without_slots_toml_the_id_gives_the_path(lab: Lab) -> None:
    slot_id = f"hut-test-{uuid.uuid4().hex[:12]}"
    path = default_lock_path(slot_id)
    assert str(path) == f"/var/lock/{slot_id}.lock"
    if not os.access(path.parent, os.W_OK):
        pytest.skip(f"{path.parent} is not writable here")
    try:
        with running_hut(lab, "lock", slot_id, "--", *HOLD) as holder:
            read_until(holder.stdout, b"up")
            assert not flock_gets(path)
    finally:
        path.unlink(missing_ok=True)


def test_a_slots_toml_can_name_another_path(bench: Lab) -> None:
    with running_hut(bench, "lock", SLOT, "--", *HOLD) as holder:
        read_until(holder.stdout, b"up")
        assert not flock_gets(bench.lock(SLOT))
        holder.communicate(timeout=PATIENCE_S)
    assert flock_gets(bench.lock(SLOT))


def test_somebody_else_holds_it_and_we_do_not_wait(bench: Lab) -> None:
    with held_by_flock(bench.lock(SLOT)) as holder:
        done = hut(bench, "lock", SLOT, "--timeout", "0", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (4, "")
    assert ONE_ERROR.fullmatch(done.stderr)
    assert f"pid {holder.pid}" in done.stderr
    assert "--lock-timeout" in done.stderr and "--hut-" not in done.stderr


def test_somebody_else_holds_it_and_we_wait(bench: Lab) -> None:
    with (
        held_by_flock(bench.lock(SLOT)) as holder,
        running_hut(bench, "lock", SLOT, "--", "echo", "ran") as waiter,
    ):
        assert f"held by pid {holder.pid}".encode() in read_until(waiter.stderr, b"\n")
        assert waiter.poll() is None
        holder.communicate()
        assert waiter.communicate(timeout=PATIENCE_S)[0] == b"ran\n"
        assert waiter.returncode == 0


def test_interrupted_while_it_waits(bench: Lab) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with held_by_flock(bench.lock(SLOT)), running_hut(bench, "lock", SLOT, "--", "echo", "ran") as waiter:
            read_until(waiter.stderr, b"waiting for")
            waiter.send_signal(number)
            out, err = waiter.communicate(timeout=PATIENCE_S)
        assert (waiter.returncode, out) == (130, b"")
        assert err.endswith(b"\n") and err.count(b"hut: error: interrupted") == 1
        assert b"Traceback" not in err


def test_killed_it_leaves_the_lock_to_its_command(bench: Lab) -> None:
    with running_hut(bench, "lock", SLOT, "--", *HOLD) as holder:
        read_until(holder.stdout, b"up")
        holder.kill()
        assert holder.wait(PATIENCE_S) == -signal.SIGKILL
        assert not flock_gets(bench.lock(SLOT))
        assert holder.stdin is not None
        holder.stdin.close()
        holder.stdin = None
        assert flock_gets(bench.lock(SLOT), PATIENCE_S)


def test_what_the_command_leaves_behind_does_not_keep_the_slot(bench: Lab) -> None:
    with running_hut(bench, "lock", SLOT, "--", "sh", "-c", "cat <&0 >/dev/null & echo up") as holder:
        read_until(holder.stdout, b"up")
        assert holder.wait(PATIENCE_S) == 0
        assert flock_gets(bench.lock(SLOT))


REPORTS_SIGNALS = """
import signal, sys
seen = []
def note(number, frame):
    seen.append(number)
    print("got", signal.Signals(number).name, flush=True)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, note)
print("up", flush=True)
for line in sys.stdin:
    print("total", len(seen), flush=True)
sys.exit(42)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_are_passed_on(bench: Lab, name: str) -> None:
    with running_hut(bench, "lock", SLOT, "--", sys.executable, "-c", REPORTS_SIGNALS) as process:
        read_until(process.stdout, b"up\n")
        process.send_signal(signal.Signals[name])
        read_until(process.stdout, f"got {name}\n".encode())
        assert process.poll() is None
        assert process.communicate(b"how many\n", timeout=PATIENCE_S)[0] == b"total 1\n"
        assert process.returncode == 42


def test_a_key_on_the_terminal_reaches_the_command_once(bench: Lab) -> None:
    terminal = hut_on_a_terminal(bench, "lock", SLOT, "--", sys.executable, "-c", REPORTS_SIGNALS)
    terminal.expect_exact("up")
    terminal.sendintr()
    terminal.expect_exact("got SIGINT")
    terminal.sendline("how many")
    terminal.expect_exact("total 1")
    terminal.sendeof()
    terminal.wait()
    assert terminal.exitstatus == 42


def test_a_lock_that_is_a_symlink_is_refused(bench: Lab) -> None:
    target = bench.folder / "target"
    target.write_text("precious")
    Path(bench.lock(SLOT)).symlink_to(target)
    done = hut(bench, "lock", SLOT, "--", "true")
    assert done.returncode == 3
    assert ONE_ERROR.fullmatch(done.stderr)
    assert "symbolic link" in done.stderr
    assert target.read_text() == "precious"
