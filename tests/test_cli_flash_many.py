"""`hut flash` on several slots at once: one that fails, whoever ends it, and what is left then."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pexpect
import pytest
from cli_rig import HUT, PATIENCE_S, flock_gets, held_by_flock, hut, hut_on_a_terminal, read_until, running_hut
from lab import Lab

from pytest_hut.bench.models import Slot
from pytest_hut.board.progress import Progress, Silent
from pytest_hut.cli.children import Outcome, on_each
from pytest_hut.cli.exits import BUSY, INFRASTRUCTURE, OK
from pytest_hut.errors import SlotBusy
from pytest_hut.firmware.demo import demo_firmware

SLOTS = ("hut-01", "hut-02", "hut-03")


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with three virtual slots."""
    lab.write_slots(*SLOTS)
    return lab


def session_end(lab: Lab) -> dict[str, object]:
    (journal,) = lab.folder.glob("build/hut/*/session.jsonl")
    end: dict[str, object] = json.loads(journal.read_text().splitlines()[-1])
    return end


def kinds(lab: Lab, slot_id: str) -> list[str]:
    return [str(event["event"]) for event in lab.events(slot_id)]


def with_faults(lab: Lab, slot_id: str, faults: str) -> None:
    with (lab.folder / "slots.toml").open("a") as file:
        file.write(f"\n[slots.{slot_id}.virtual_board.faults]\n{faults}\n")


def wait_for_free_locks(lab: Lab) -> None:
    for slot_id in SLOTS:
        assert flock_gets(lab.lock(slot_id), PATIENCE_S), f"{slot_id} is still held"


def test_all_slots_are_flashed_at_once(bench: Lab) -> None:
    for slot_id in SLOTS[:2]:
        bench.preload(slot_id)
    done = hut(bench, "flash", "all", "demo")
    assert done.returncode == 0, done.stderr
    evidence, *results = done.stdout.splitlines()
    assert [result.split(" booted in")[0] for result in results] == [
        f"{slot_id}: recovery pytest-hut-demo demo-1.0" for slot_id in SLOTS
    ]
    job = bench.folder / evidence.removeprefix("evidence: ")
    assert {path.name for path in job.iterdir()} == {"session.jsonl", *SLOTS}
    for slot_id in SLOTS:
        assert kinds(bench, slot_id)[0] == "SlotLeased" and kinds(bench, slot_id)[-1] == "SlotReleased"
        (console,) = job.glob(f"{slot_id}/runner_{slot_id}_console_*_utc.log")
        assert b"demo ready" in console.read_bytes()
    assert "hut-01: demo demo-1.0: already on the board" in done.stderr
    assert "hut-03: writing recovery" in done.stderr
    assert session_end(bench)["exit_code"] == 0


def test_one_bad_slot_does_not_stop_the_others(bench: Lab) -> None:
    for slot_id in SLOTS:
        bench.preload(slot_id)
    with_faults(bench, "hut-02", "silent = true")
    with held_by_flock(bench.lock("hut-03")) as holder:
        done = hut(bench, "flash", ",".join(SLOTS), "demo", "--lock-timeout", "0")
        assert done.returncode == 3
        assert f"hut-03: failed (busy): {bench.lock('hut-03')} is held by pid {holder.pid}" in done.stderr
    assert "hut-02: failed (the bench): " in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "hut: error: 2 of 3 slots failed: hut-02 (the bench), hut-03 (busy)"
    assert done.stdout.splitlines()[1].startswith("hut-01: recovery pytest-hut-demo demo-1.0 booted")
    assert (session_end(bench)["exit_code"], session_end(bench)["reason"]) == (3, last.removeprefix("hut: error: "))
    wait_for_free_locks(bench)


def test_what_the_firmware_did_counts_more_than_trouble_of_the_bench(bench: Lab) -> None:
    firmware = demo_firmware("esp32", script={"boot": [{"panic": "abort"}]})
    for slot_id in SLOTS:
        bench.preload(slot_id, firmware)
    with held_by_flock(bench.lock("hut-03")):
        done = hut(bench, "flash", "all", str(bench.save_firmware(firmware)), "--lock-timeout", "0")
    assert done.returncode == 1
    assert "2 of 3" not in done.stderr
    assert "3 of 3 slots failed: hut-01 (the firmware), hut-02 (the firmware), hut-03 (busy)" in done.stderr


def test_the_mode_of_flashing_is_chosen_as_for_pytest(bench: Lab) -> None:
    bench.preload("hut-01")
    assert hut(bench, "flash", "hut-01,hut-02", "demo", "--flash", "never").returncode == 3
    error = hut(bench, "flash", "hut-02", "demo", "--flash=never").stderr.splitlines()[-1]
    assert error.startswith("hut: error: hut-02 does not boot demo") and "--flash=never" in error
    done = hut(bench, "flash", "hut-01", "demo", "--flash", "verify")
    assert done.returncode == 0, done.stderr
    planned = [event["mode"] for event in bench.events("hut-01") if event["event"] == "FlashPlanned"]
    assert planned[-1] == "verify" and set(planned[:-1]) == {"never"}


@pytest.mark.parametrize("wrong", ["hut-01,hut-01", "hut-01,all", "hut-01,", "hut-01,hut-99"])
def test_slots_that_cannot_be_are_refused_before_anything_is_touched(bench: Lab, wrong: str) -> None:
    done = hut(bench, "flash", wrong, "demo")
    assert done.returncode == 2
    assert not list(bench.folder.glob("build/hut/*"))


@pytest.mark.parametrize("to_all", [False, True], ids=["SIGTERM to the command", "Ctrl-C on a terminal"])
def test_interrupted_all_boards_are_on_and_all_slots_free(bench: Lab, to_all: bool) -> None:
    bench.write_slots(*SLOTS, board="paced = true")
    process = subprocess.Popen(
        [*HUT, "flash", "all", "demo"],
        cwd=bench.folder,
        env=bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        read_until(process.stderr, b"writing recovery")
        if to_all:
            os.killpg(process.pid, signal.SIGINT)
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    for slot_id in SLOTS:
        assert flock_gets(bench.lock(slot_id))
        assert (bench.flash_file(slot_id).parent / "power").exists() is False, "nobody switched it off"
        assert kinds(bench, slot_id)[0] == "SlotLeased"
    assert b"Traceback" not in err
    assert err.splitlines()[-1].startswith(b"hut: error: interrupted (")
    assert out.startswith(b"evidence: ") and b"booted" not in out
    assert (session_end(bench)["cause"], session_end(bench)["exit_code"]) == ("interrupt", 130)


def test_interrupted_while_waiting_for_a_slot(bench: Lab) -> None:
    for slot_id in SLOTS:
        bench.preload(slot_id)
    with held_by_flock(bench.lock("hut-03")), running_hut(bench, "flash", "all", "demo") as process:
        read_until(process.stderr, b"waiting for")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert flock_gets(bench.lock("hut-01")) and flock_gets(bench.lock("hut-02"))


def test_killed_it_leaves_no_process_behind(bench: Lab) -> None:
    bench.write_slots(*SLOTS, board="paced = true")
    with running_hut(bench, "flash", "all", "demo") as process:
        read_until(process.stderr, b"writing recovery")
        assert not flock_gets(bench.lock("hut-02"))
        process.kill()
        process.wait()
    began = time.monotonic()
    wait_for_free_locks(bench)
    assert time.monotonic() - began < 5, "they ended, rather than finish their work"


def test_on_a_terminal_each_slot_has_a_bar(bench: Lab) -> None:
    bench.write_slots(*SLOTS, board="paced = true")
    terminal = hut_on_a_terminal(bench, "flash", "hut-01,hut-02", "demo")
    terminal.expect(r"hut-0[12] [^\r\n]*[1-9]\d?%[^\r\n]*\r?\n[^\r\n]*hut-0[12] [^\r\n]*\d%")
    terminal.sendintr()
    terminal.expect_exact("interrupted (Ctrl-C)")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130


def test_a_child_that_dies_is_that_slots_trouble_alone() -> None:
    slots = [Slot(id=slot_id, port="/dev/null") for slot_id in SLOTS]
    parent = os.getpid()
    ended: list[Outcome] = []

    def work(slot: Slot, progress: Progress) -> str:
        assert os.getpid() != parent
        progress.line("begun")
        progress.bar("x", 1, 2)
        if slot.id == "hut-01":
            raise SlotBusy("somebody else has it")
        if slot.id == "hut-02":
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return "well"

    silence: dict[str, Progress] = {slot.id: Silent() for slot in slots}
    outcomes = on_each(slots, work, contextlib.nullcontext(silence), lambda outcome, _: ended.append(outcome))
    assert outcomes == [
        Outcome("hut-01", BUSY, "somebody else has it"),
        Outcome("hut-02", INFRASTRUCTURE, "its process ended without a result (exit code -9)"),
        Outcome("hut-03", OK, "well"),
    ]
    assert sorted(ended, key=lambda outcome: outcome.slot_id) == outcomes


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_without_a_standard_stream_the_boards_are_flashed_all_the_same(bench: Lab, closed: tuple[int, ...]) -> None:
    for slot_id in SLOTS:
        bench.preload(slot_id)
    command = " ".join(["exec", *map(shlex.quote, HUT), "flash", "all", "demo", *(f"{number}>&-" for number in closed)])
    done = subprocess.run(
        ["sh", "-c", command], cwd=bench.folder, env=bench.environment, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, session_end(bench)["exit_code"]) == (0, 0)


def test_a_terminal_that_hangs_up_is_an_interruption(bench: Lab) -> None:
    bench.write_slots(*SLOTS, board="paced = true")
    terminal = hut_on_a_terminal(bench, "flash", "all", "demo")
    terminal.expect(r"[1-9]\d?%")
    os.close(terminal.child_fd)
    _, status = os.waitpid(terminal.pid, 0)
    assert (session_end(bench)["cause"], session_end(bench)["exit_code"]) == ("interrupt", 130)
    assert os.WIFEXITED(status)
    wait_for_free_locks(bench)
