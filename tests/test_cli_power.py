"""`hut power`: switching a board's power from the command line, from a job, and from inside a session."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from cli_rig import HUT, ONE_ERROR, PATIENCE_S, Finished, held_by_flock, hut, read_until, running_hut
from lab import Lab

SLOT = "hut-01"
OFF_S = 0.2
CLOCK_S = 0.005
"""Events are stamped in milliseconds."""


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A laboratory with one virtual slot, whose relay is believed quickly."""
    lab.write_slots(SLOT)
    toml = lab.folder / "slots.toml"
    toml.write_text(toml.read_text().replace("[slots.hut-01.power]\n", "[slots.hut-01.power]\nstable_s = 0.05\n"))
    return lab


def with_programs(lab: Lab, state: str) -> None:
    """Make the slot a real one whose relay is switched by programs; `state` is a shell script."""
    (lab.folder / "contact").write_text("on\n")

    def program(text: str) -> str:
        return json.dumps(["sh", "-c", text, "relay", str(lab.folder / "contact")])

    (lab.folder / "slots.toml").write_text(
        f'[slots.{SLOT}]\nport = "/dev/serial/by-id/x"\nlock_path = "{lab.lock(SLOT)}"\n'
        f'[slots.{SLOT}.relay]\ndriver = "command"\ntimeout_s = 0.2\n'
        f"on = {program('echo on > $1')}\noff = {program('echo off > $1')}\nstate = {program(state)}\n"
        f"[slots.{SLOT}.power]\noff_s = {OFF_S}\nstable_s = 0.0\nsettle_timeout_s = 0.2\nbudget_s = 1.0\nwatch_s = 0\n"
    )


def board_is(lab: Lab) -> str:
    """What the virtual board's power state on disk says."""
    return (lab.flash_file(SLOT).with_name("power")).read_text().strip()


def owes_power(lab: Lab) -> bool:
    """What the next holder would find."""
    return bool(json.loads(lab.lock(SLOT).with_suffix(".power").read_text())["off_intended"])


def names(lab: Lab) -> list[str]:
    return [event["event"] for event in lab.events(SLOT)]


def seen(result: dict[str, Any]) -> list[str]:
    return [state["state"] for state in result["states"]]


def as_json(done: Finished) -> dict[str, Any]:
    data = json.loads(done.stdout)
    assert isinstance(data, dict)
    return data


def session_ends(lab: Lab) -> list[dict[str, Any]]:
    """The last events of all jobs, oldest first."""
    journals = sorted(lab.folder.glob("build/hut/*/session.jsonl"), key=lambda journal: journal.stat().st_mtime_ns)
    return [json.loads(journal.read_text().splitlines()[-1]) for journal in journals]


def test_off_stays_off_and_a_cycle_puts_that_right_first(bench: Lab) -> None:
    off = hut(bench, "power", "off", SLOT)
    assert off.returncode == 0, off.stderr
    evidence, told = off.stdout.splitlines()
    assert (bench.folder / evidence.removeprefix("evidence: ") / "session.jsonl").is_file()
    assert told.startswith(f"{SLOT}: off: ok in ") and told.endswith("proved by state read back")
    assert board_is(bench) == "off" and owes_power(bench)
    assert names(bench) == ["SlotLeased", "PowerOffIntended", "PowerSwitched", "SlotReleased"]
    assert hut(bench, "power", "state", SLOT).stdout == f"{SLOT}: off\n"

    done = hut(bench, "power", "cycle", SLOT, "--off-s", "0.3", "--on-s", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    result = as_json(done)
    assert (result["slot"], result["status"], result["action"]) == (SLOT, "ok", "cycle")
    assert (result["off_s"], result["on_s"], result["attempts"]) == (0.3, 0.1, 2)
    assert seen(result) == ["on", "off", "on"]
    assert result["seconds"] >= 0.4
    assert board_is(bench) == "on" and not owes_power(bench)
    assert names(bench)[4:] == [
        "SlotLeased",
        "PowerSwitched",
        "Recovered",
        "PowerOffIntended",
        "PowerSwitched",
        "PowerSwitched",
        "PowerCycled",
        "SlotReleased",
    ]
    [cycled] = [event for event in bench.events(SLOT) if event["event"] == "PowerCycled"]
    told_twice = ("status", "off_s", "states", "seconds")
    assert {key: cycled[key] for key in told_twice} == {key: result[key] for key in told_twice}
    assert (bench.folder / result["evidence"] / SLOT / "events_main.jsonl").is_file()


def test_off_twice_does_not_switch_on_in_between_and_on_is_a_recovery(lab: Lab) -> None:
    with_programs(lab, "cat $1")
    results = [as_json(hut(lab, "power", action, SLOT, "--json")) for action in ("off", "off", "on", "on")]
    assert [(result["action"], result["status"]) for result in results] == [
        ("off", "ok"),
        ("off", "ok"),
        ("on", "ok"),
        ("on", "ok"),
    ]
    assert [seen(result) for result in results] == [["on", "off"], ["off"], ["off", "on"], ["on"]]
    assert (lab.folder / "contact").read_text() == "on\n"
    assert names(lab).count("Recovered") == 1
    assert [end["exit_code"] for end in session_ends(lab)] == [0, 0, 0, 0]


def test_state_needs_no_lock_and_leaves_no_job(bench: Lab) -> None:
    with held_by_flock(bench.lock(SLOT)):
        done = hut(bench, "power", "state", SLOT, "--json")
    assert (done.returncode, as_json(done)["status"], as_json(done)["evidence"]) == (0, "ok", None)
    assert not (bench.folder / "build").exists()


def test_without_slots_toml_a_virtual_slot_can_be_named(lab: Lab) -> None:
    assert hut(lab, "power", "state", SLOT, "--virtual").stdout == f"{SLOT}: on\n"


@pytest.mark.parametrize(
    ("state", "code", "status", "words"),
    [
        ("exec sleep 60", 7, "timeout", "was killed"),
        ("echo broken >&2; exit 3", 8, "ha_error", "exit code 3: broken"),
        ("echo on", 7, "timeout", "still says 'on'"),
    ],
    ids=["stuck program", "failing program", "stuck relay"],
)
def test_what_relays_do_has_an_exit_code_each(lab: Lab, state: str, code: int, status: str, words: str) -> None:
    with_programs(lab, state)
    done = hut(lab, "power", "cycle", SLOT)
    assert done.returncode == code, done.stderr
    told = done.stdout.splitlines()[-1]
    assert told.startswith(f"{SLOT}: cycle: {status} after ") and words in told
    [end] = session_ends(lab)
    assert end["exit_code"] == code and words in end["reason"]


def test_a_state_that_cannot_be_had(lab: Lab) -> None:
    with_programs(lab, "exec sleep 60")
    done = hut(lab, "power", "state", SLOT)
    assert done.returncode == 7
    assert done.stdout.startswith(f"{SLOT}: timeout: ")


def test_a_slot_without_a_relay(lab: Lab) -> None:
    (lab.folder / "slots.toml").write_text(
        f'[slots.{SLOT}]\nport = "/dev/serial/by-id/x"\nlock_path = "{lab.lock(SLOT)}"\n'
    )
    done = hut(lab, "power", "cycle", SLOT)
    assert done.returncode == 8 and "ha_error" in done.stdout


def test_times_are_for_cycles_only(lab: Lab) -> None:
    with_programs(lab, "cat $1")
    done = hut(lab, "power", "on", SLOT, "--off-s", "1")
    assert done.returncode == 2 and ONE_ERROR.fullmatch(done.stderr) and "hut power cycle" in done.stderr
    assert hut(lab, "power", "toggle", SLOT).returncode == 2
    assert not (lab.folder / "build").exists()


def test_somebody_else_holds_the_slot(lab: Lab) -> None:
    with_programs(lab, "cat $1")
    with held_by_flock(lab.lock(SLOT)) as holder:
        done = hut(lab, "power", "cycle", SLOT, "--lock-timeout", "0", "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert ONE_ERROR.fullmatch(done.stderr) and f"pid {holder.pid}" in done.stderr
    assert "PowerOffIntended" not in names(lab)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_it_leaves_the_board_on(lab: Lab, number: int) -> None:
    with_programs(lab, "cat $1")
    with running_hut(lab, "power", "cycle", SLOT, "--off-s", "60") as process:
        wait_for_off(lab)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130
    assert (lab.folder / "contact").read_text() == "on\n"
    assert not owes_power(lab)


def wait_for_off(lab: Lab) -> None:
    """Return when the contact of the relay is off."""
    script = 'until grep -q off "$1"; do sleep 0.02; done'
    subprocess.run(["sh", "-c", script, "-", str(lab.folder / "contact")], timeout=PATIENCE_S, check=True)


def test_inside_hut_lock_it_acts_under_that_lock(bench: Lab) -> None:
    done = hut(bench, "lock", SLOT, "--", *HUT, "power", "cycle", SLOT, "--lock-timeout", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert as_json(done)["status"] == "ok"
    assert "SlotLeased" not in names(bench), "the lock is not its own"


RUNS_IT_WITHOUT_DESCRIPTORS = """
import os, subprocess, sys
print(os.getpid(), flush=True)
sys.stdin.readline()
sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode)
"""


def test_the_lock_may_have_outlived_who_took_it(lab: Lab) -> None:
    """`hut lock` was killed: its command carries the lock, and `hut power` is the command's child, without it."""
    with_programs(lab, "cat $1")
    command = [sys.executable, "-c", RUNS_IT_WITHOUT_DESCRIPTORS, *HUT, "power", "cycle", SLOT, "--lock-timeout", "0"]
    with running_hut(lab, "lock", SLOT, "--", *command) as locker:
        read_until(locker.stdout, b"\n")
        locker.kill()
        locker.wait(PATIENCE_S)
        out, err = locker.communicate(b"go\n", timeout=PATIENCE_S)
    assert b"cycle: ok in " in out, err


def test_a_stranger_is_no_descendant(lab: Lab) -> None:
    with_programs(lab, "cat $1")
    with running_hut(lab, "lock", SLOT, "--", "sh", "-c", "echo up; exec cat") as locker:
        read_until(locker.stdout, b"up")
        assert hut(lab, "power", "cycle", SLOT, "--lock-timeout", "0").returncode == 4


TEST_THAT_CYCLES = f"""
import json, subprocess

def power(*words):
    done = subprocess.run({HUT!r} + ["power", *words, "{SLOT}", "--lock-timeout", "0", "--json"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

def test_it(hut_slot, power_relay):
    hut_slot.boot()
    hut_slot.console.mark_reset()
    assert power("cycle")["status"] == "ok"
    assert hut_slot.expect_boot().reset_reason == "POWERON_RESET"
    assert power("off")["status"] == "ok"
    assert power_relay.state() == "off"
"""


def test_from_a_test_in_a_session_that_holds_the_slot(bench: Lab) -> None:
    bench.preload(SLOT)
    bench.write_test(TEST_THAT_CYCLES)
    session = bench.run()
    assert session.exit_code == 0, session.output
    assert board_is(bench) == "on", "the session gives power back"


def cycles(lab: Lab) -> list[tuple[float, float]]:
    """When each cycle began and ended, oldest first."""
    began, ended = (
        [datetime.fromisoformat(event["utc"]).timestamp() for event in lab.events(SLOT) if event["event"] == name]
        for name in ("PowerOffIntended", "PowerCycled")
    )
    return list(zip(began, ended, strict=True))


@pytest.mark.parametrize("under_a_lock", [False, True], ids=["own locks", "under one lock"])
def test_cycles_at_once_run_one_after_the_other(lab: Lab, under_a_lock: bool) -> None:
    with_programs(lab, "cat $1")
    four = 'for i in 1 2 3 4; do "$@" & done; wait'
    cycle = ["sh", "-c", four, "-", *HUT, "power", "cycle", SLOT, "--json", "--lock-timeout", "30"]
    if under_a_lock:
        done = hut(lab, "lock", SLOT, "--", *cycle)
    else:
        done = subprocess.run(
            cycle, cwd=lab.folder, env=lab.environment, capture_output=True, text=True, timeout=30, check=False
        )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["status"] for result in results] == ["ok"] * 4, done.stderr
    times = cycles(lab)
    assert len(times) == 4
    assert all(later[0] >= earlier[1] - CLOCK_S for earlier, later in pairwise(times))
    assert len({result["evidence"] for result in results}) == 4


def test_a_file_that_is_only_open_lends_nothing(lab: Lab) -> None:
    with_programs(lab, "cat $1")
    opens = ["sh", "-c", 'exec 9<"$0"; "$@"; exit $?', str(lab.lock(SLOT))]
    lab.lock(SLOT).touch()
    with held_by_flock(lab.lock(SLOT)):
        done = subprocess.run(
            [*opens, *HUT, "power", "on", SLOT, "--lock-timeout", "0"],
            cwd=lab.folder,
            env=lab.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 4, done.stdout + done.stderr
