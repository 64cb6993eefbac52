"""`hut monitor`: the board on a terminal, and in a pipe."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
import uuid

import pexpect
import pytest
from cli_rig import HUT, ONE_ERROR, PATIENCE_S, flock_gets, hut, hut_on_a_terminal, read_until, running_hut
from lab import Lab

from pytest_hut.bench.ids import default_lock_path

SLOT = "hut-01"
READY = b"demo ready"
CTRL_BRACKET = "\x1d"


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with one virtual slot that holds the demo firmware."""
    lab.write_slots(SLOT)
    lab.preload(SLOT)
    return lab


def test_in_a_pipe_it_shows_the_boot_until_the_time_is_over(bench: Lab) -> None:
    start = time.monotonic()
    done = hut(bench, "monitor", SLOT, "--reset", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start >= 1
    lines = done.stdout.splitlines()
    assert "rst:0x1 (POWERON_RESET)" in done.stdout
    assert any(READY.decode() in line for line in lines)
    assert not (bench.folder / "build").exists(), "a monitor is no job"
    assert flock_gets(bench.lock(SLOT))


def test_lines_can_be_stamped_and_everything_recorded(bench: Lab) -> None:
    log = bench.folder / "board.log"
    done = hut(bench, "monitor", SLOT, "--reset", "--seconds", "1", "--timestamps", "--log", str(log))
    assert done.returncode == 0
    stamp = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")
    lines = done.stdout.split("\n")[:-1]
    assert all(stamp.match(line) for line in lines)
    stamps = [line[:24] for line in lines]
    assert stamps == sorted(stamps) and stamps[0] < stamps[-1]
    shown = "\n".join(stamp.sub("", line, count=1) for line in lines) + "\n"
    # Bytes, not text, are recorded: the line ends of the board.
    recorded = log.read_bytes().decode().replace("\r\n", "\n")
    assert READY.decode() in recorded
    assert recorded.endswith(shown)
    assert log.with_suffix(".times").stat().st_size > 0

    again = hut(bench, "monitor", SLOT, "--log", str(log))
    assert again.returncode == 2
    assert ONE_ERROR.fullmatch(again.stderr) and "exists already" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_its_usual_end(bench: Lab, number: signal.Signals) -> None:
    with running_hut(bench, "monitor", SLOT, "--reset") as process:
        read_until(process.stdout, READY)
        assert not flock_gets(bench.lock(SLOT))
        process.send_signal(number)
        _out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (0, b"")


def test_a_reader_that_goes_away_ends_it(bench: Lab) -> None:
    with running_hut(bench, "monitor", SLOT, "--reset") as process:
        read_until(process.stdout, b"rst:")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (141, b"")
        assert flock_gets(bench.lock(SLOT))


def test_a_slot_can_be_virtual_without_slots_toml(lab: Lab) -> None:
    slot_id = f"hut-test-{uuid.uuid4().hex[:12]}"
    lock = default_lock_path(slot_id)
    if not os.access(lock.parent, os.W_OK):
        pytest.skip(f"{lock.parent} is not writable here")
    try:
        done = hut(lab, "monitor", slot_id, "--virtual", "--seconds", "0")
        assert (done.returncode, done.stderr) == (0, "")
        assert lock.is_file()
    finally:
        lock.unlink(missing_ok=True)


def test_on_a_terminal_one_talks_to_the_board(bench: Lab) -> None:
    terminal = hut_on_a_terminal(bench, "monitor", SLOT, "--reset")
    terminal.expect_exact("Ctrl-] ends")
    terminal.expect_exact(READY.decode())
    terminal.send("echo grüße\r")
    terminal.expect_exact("grüße")
    terminal.send("\x03version\r")  # Ctrl-C goes to the board as well; its console takes it for a letter.
    terminal.expect(r"Unrecognized command: \x03version|pytest-hut-demo demo-1.0 ELF")
    assert not flock_gets(bench.lock(SLOT))
    assert not terminal.getecho()
    terminal.send("uptime" + CTRL_BRACKET + "never sent\r")
    terminal.expect(pexpect.EOF)
    assert "up " not in str(terminal.before)
    terminal.close()
    assert terminal.exitstatus == 0
    assert flock_gets(bench.lock(SLOT))


def test_the_terminal_is_left_as_it_was(bench: Lab) -> None:
    shell = pexpect.spawn("sh", env={**bench.environment, "PS1": "$ "}, cwd=str(bench.folder), encoding="utf-8")
    shell.timeout = PATIENCE_S
    shell.sendline(f"stty -g; {shlex.join([*HUT, 'monitor', SLOT, '--reset'])}; stty -g; echo 'do''ne'")
    before = stty(shell)
    shell.expect_exact(READY.decode())
    shell.send(CTRL_BRACKET)
    assert stty(shell) == before
    shell.expect_exact("done")
    shell.close()


def stty(shell: pexpect.spawn[str]) -> str:
    shell.expect(r"[0-9a-f]+(:[0-9a-f]+){10,}")
    assert isinstance(shell.after, str)
    return shell.after


def test_without_input_the_keys_stay_with_the_terminal(bench: Lab) -> None:
    terminal = hut_on_a_terminal(bench, "monitor", SLOT, "--reset", "--no-input")
    terminal.expect_exact(READY.decode())
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    assert "Ctrl-]" not in str(terminal.before)
    terminal.close()
    assert terminal.exitstatus == 0
