"""Sessions of several slots, as a user starts them: who runs what, what is lost, and what comes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from lab import Lab
from scheduling_rig import BENCH, ran, write_bench

from pytest_hut.lease.lockfile import LockFile


def assert_never_held_twice(lab: Lab) -> None:
    """Check from the events that leases of one slot never overlap."""
    for slot in lab.slots:
        kinds = [event["event"] for event in lab.events(slot) if event["event"] in ("SlotLeased", "SlotReleased")]
        assert kinds == ["SlotLeased", "SlotReleased"] * (len(kinds) // 2), slot


NEEDS_MODULE = """
import pytest

@pytest.mark.hut(chip="esp32")
@pytest.mark.parametrize("n", range(4))
def test_old(hut_slot, n): assert hut_slot.chip == "esp32"

@pytest.mark.hut(chip=["esp32s3", "esp32c6"])
@pytest.mark.parametrize("n", range(3))
def test_new(hut_slot, n): assert hut_slot.chip == "esp32s3"

@pytest.mark.hut(features=["ethernet"])
def test_nowhere(hut_slot): raise AssertionError

@pytest.mark.parametrize("n", range(3))
def test_plain(n): pass
"""


@pytest.mark.parametrize("arguments", [("-n", "auto"), ("-p", "no:xdist"), ("-n", "3", "--dist", "loadfile")])
def test_each_test_runs_where_it_fits(lab: Lab, arguments: tuple[str, ...]) -> None:
    write_bench(lab)
    lab.write_test(NEEDS_MODULE)

    session = lab.run("-v", "--hut-slots=all", *arguments, slots=[])

    outcomes = ran(session)
    if "loadfile" not in arguments:  # That scheduler knows no slots, so tests end up where they do not fit.
        assert session.exit_code == 0, session.output
        by_name = {(name.split("[")[0], slot) for name, (slot, outcome) in outcomes.items() if outcome == "passed"}
        assert {name for name, _ in by_name} == {"test_old", "test_new", "test_plain"}
        assert {slot for name, slot in by_name if name == "test_new"} == {"hut-03"}
        assert Counter(outcome for _, outcome in outcomes.values()) == {"passed": 10, "skipped": 1}
    [nowhere] = [test for test in session.report.tests if "nowhere" in test.node_id]
    assert nowhere.message.startswith("no slot for it: needs ethernet"), session.output


def test_what_fits_nowhere_is_told_first_and_may_be_an_error(lab: Lab) -> None:
    write_bench(lab)
    lab.write_test(NEEDS_MODULE)

    for workers in ("0", "3"):
        session = lab.run("-v", "-n", workers, "--hut-no-slot=error")

        assert session.exit_code == 10, session.output
        assert session.report.tests[0].node_id.endswith("test_nowhere")
        assert session.report.tests[0].kind == "infrastructure"


def test_verbose_lines_name_the_slot(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pytest\n"
        "@pytest.mark.hut_each\ndef test_each(hut_slot): pass\n"
        "def test_bad(hut_slot): assert not hut_slot.id\n"
    )

    session = lab.run("-v", "-n", "auto")

    assert "PASSED [hut-01]" in session.output and "PASSED [hut-02]" in session.output, session.output
    assert re.search(r"FAILED \[hut-0[12]\] test_it.py::test_bad", session.output)
    assert re.search(r"\[gw0\] has hut-01 \(esp32\)", session.output)
    assert ran(session)["test_each[hut-02]"] == ("hut-02", "passed")


@pytest.mark.parametrize(
    ("slots", "arguments", "told"),
    [
        ("any:4", (), "4 slots are asked for, but 3 fit"),
        ("any:1:ethernet", (), "none fits"),
        ("any:2", ("-n", "3"), "more workers than there are slots"),
        ("all", ("-n", "4"), "more workers than there are slots"),
        ("all,hut-01", (), "--hut-slots=all,hut-01: give slots"),
        ("any", ("--hut-virtual",), "--hut-slots=any: give slots"),
        ("any:x", (), "--hut-slots=any:x: give slots"),
        ("all", ("--hut-quarantine-after=-1",), "--hut-quarantine-after=-1: give a number"),
        ("all", ("--hut-lock-timeout=nan",), "--hut-lock-timeout=nan: give seconds"),
    ],
)
def test_slots_that_cannot_be_had_are_usage_errors(lab: Lab, slots: str, arguments: tuple[str, ...], told: str) -> None:
    write_bench(lab)
    lab.write_test("def test_it(hut_slot): pass")

    session = lab.run(f"--hut-slots={slots}", *arguments, slots=[])

    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert told in session.output


def test_equal_firmware_comes_together_and_durations_are_learnt(lab: Lab) -> None:
    from pytest_hut.firmware.demo import demo_firmware

    write_bench(lab, BENCH[:2])
    for name in ("one", "two"):
        lab.save_firmware(demo_firmware("esp32", version=name), name)
    lab.write_test(
        "import pytest\n"
        + "".join(
            f"@pytest.mark.hut(firmware='{'one' if number % 2 else 'two'}')\n"
            f"def test_{number}(hut_slot, flashed_firmware): assert hut_slot.boot().app_version in ('one', 'two')\n"
            for number in range(8)
        )
    )

    first, second = lab.run("-n", "2"), lab.run("-n", "2")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    for report in lab.reports():
        flashed = [flash.written for slot in report.slots for flash in slot.flashes]
        assert len(flashed) == 8
        assert sum(flashed) <= 2, "each board needs one firmware at most"
    [history] = (lab.home / ".local/state/hut/durations").iterdir()
    known = json.loads(history.read_text())
    assert len(known["tests"]) == 8 and known["flash_s"] > 0
    assert all(seconds < known["flash_s"] + 5 for seconds in known["tests"].values())


BAD_SLOT = """
import pytest
from pytest_hut import PortError

@pytest.mark.parametrize("n", range(6))
def test_many(hut_slot, n):
    if hut_slot.id == "hut-01":
        raise PortError("the cable is loose")
"""


def test_a_bad_slot_is_put_in_quarantine_and_the_others_do_its_work(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(BAD_SLOT + "\n@pytest.mark.hut_each\ndef test_each(hut_slot): pass\n")

    session = lab.run("-v", "-n", "2", "--hut-quarantine-after=2")

    outcomes = ran(session)
    assert {outcomes[f"test_many[{n}]"] for n in range(6)} == {("hut-02", "passed")}, session.output
    assert outcomes["test_each[hut-02]"] == ("hut-02", "passed")
    bad = session.report.slots[0]
    if outcomes["test_each[hut-01]"][1] != "passed":  # It ran first, or it was lost with its slot.
        assert session.exit_code == 10
        [lost] = [test for test in session.report.tests if "test_each[hut-01]" in test.node_id]
        assert "quarantine" in lost.message and "the cable is loose" in lost.message
    assert bad.quarantined is not None and "2 times in a row" in bad.quarantined
    assert len([event for event in bad.recovery_events if "another slot" in event.what]) == 2
    assert "hut-01 is in quarantine" in session.output and "TRIED ELSEWHERE [hut-01]" in session.output
    assert not list((lab.home / ".local/state/hut/quarantine").iterdir())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_when_all_slots_are_gone_the_session_says_so(lab: Lab, workers: str) -> None:
    write_bench(lab, BENCH[: max(1, int(workers))])
    lab.write_test(BAD_SLOT.replace('if hut_slot.id == "hut-01"', "if True") + "\ndef test_plain(): pass\n")

    session = lab.run("-n", workers, "--hut-quarantine-after=2")

    outcomes = ran(session)
    assert session.exit_code == 10, session.output
    assert outcomes.pop("test_plain")[1] == "passed"
    assert {outcome for _, outcome in outcomes.values()} <= {"failed", "error"}
    assert {test.kind for test in session.report.tests if "plain" not in test.node_id} == {"infrastructure"}
    assert all(slot.quarantined for slot in session.report.slots)


def test_hut_slots_shows_a_quarantine(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import subprocess, sys\n"
        "from pytest_hut import PortError\n"
        "import pytest\n"
        "@pytest.mark.hut_each\n"
        "def test_one(hut_slot):\n"
        "    if hut_slot.id == 'hut-01': raise PortError('loose')\n"
        "@pytest.mark.hut_each\n"
        "def test_two(hut_slot):\n"
        "    if hut_slot.id == 'hut-02':\n"
        "        from pytest_hut.bench.quarantine import quarantine_of\n"
        "        import time\n"
        "        end = time.monotonic() + 30\n"
        "        while quarantine_of('hut-01') is None and time.monotonic() < end: time.sleep(0.05)\n"
        "        command = [sys.executable, '-m', 'pytest_hut.cli', 'slots']\n"
        "        told = subprocess.run(command, capture_output=True, text=True)\n"
        "        assert 'in quarantine since' in told.stdout and 'loose' in told.stdout, told\n"
    )

    session = lab.run("-n", "2", "--hut-quarantine-after=1")

    assert ran(session)["test_two[hut-02]"] == ("hut-02", "passed"), session.output


def test_a_busy_slot_is_left_out_and_the_rest_goes_on(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test("import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test_it(hut_slot, n): pass\n")
    with LockFile(lab.lock("hut-01"), "OTHER-JOB").acquire(1):
        session = lab.run("-n", "2", "--hut-lock-timeout=0.2")

    assert session.exit_code == 0, session.output
    assert {slot for slot, _ in ran(session).values()} == {"hut-02"}
    assert "OTHER-JOB" in (session.report.slots[0].quarantined or "")


def test_any_takes_the_free_ones(lab: Lab) -> None:
    write_bench(lab)
    lab.write_test("import pytest\n@pytest.mark.hut_each\ndef test_it(hut_slot): pass\n")
    with LockFile(lab.lock("hut-01"), "OTHER-JOB").acquire(1):
        several = lab.run("--hut-slots=any:2", "-n", "auto", slots=[])
        chosen = lab.run("--hut-slots=any:1:esp32s3", slots=[])
        none = lab.run("--hut-slots=any:3", "-n", "auto", "--hut-lock-timeout=0.2", slots=[])
        single = lab.run("--hut-slots=any:1:esp32", slots=[])

    by_job = [{test.slot for test in report.tests} for report in lab.reports()]
    assert {"hut-02", "hut-03"} in by_job and {"hut-03"} in by_job and {"hut-02"} in by_job
    assert (several.exit_code, chosen.exit_code, single.exit_code) == (0, 0, 0)
    assert none.exit_code == 10 and "OTHER-JOB" in none.output, none.output


TEAM = """
import pytest

@pytest.mark.hut(chip="esp32", count=2)
@pytest.mark.parametrize("n", range(2))
def test_pair(hut_slots, n):
    first, second = hut_slots
    assert first.id != second.id and {first.chip, second.chip} == {"esp32"}
    for slot in hut_slots:
        assert slot.boot().partition == "recovery"

@pytest.mark.parametrize("n", range(6))
def test_single(hut_slot, n): pass

@pytest.mark.hut(count=3, chip="esp32")
def test_too_many(hut_slots): pass
"""


@pytest.mark.parametrize("workers", ["0", "3"])
def test_two_boards_at_once(lab: Lab, workers: str) -> None:
    write_bench(lab)
    for slot, _ in BENCH[:2]:
        lab.preload(slot)
    lab.write_test(TEAM)

    session = lab.run("-n", workers)

    outcomes = ran(session)
    assert session.exit_code == 0, session.output
    assert Counter(outcome for _, outcome in outcomes.values()) == {"passed": 8, "skipped": 1}
    [message] = [test.message for test in session.report.tests if "too_many" in test.node_id]
    assert "needs 3 boards, 2 fit" in message
    for test in session.report.tests:
        if "test_pair" in test.node_id:
            assert {Path(path).parent.name for path in test.evidence} == {"hut-01", "hut-02"}
    assert_never_held_twice(lab)


def test_a_module_fixture_lives_as_long_as_its_module(lab: Lab) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test(
        "import pytest\n"
        "made = []\n"
        "@pytest.fixture(scope='module')\n"
        "def once():\n"
        "    made.append(1)\n"
        "    return len(made)\n"
        "@pytest.mark.parametrize('n', range(5))\n"
        "def test_it(hut_slot, once, n): assert once == 1\n"
    )

    assert lab.run("-n", "1").exit_code == 0


def test_trouble_when_a_slot_is_given_back_is_reported(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def sticky():\n"
        "    yield\n"
        "    raise RuntimeError('cannot let go')\n"
        "def test_it(sticky): pass\n"
    )

    session = lab.run("-n", "2")

    assert session.exit_code == 1, session.output
    assert "cannot let go" in session.output


def test_stop_at_the_first_failure_and_run_it_again_with_lf(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pathlib, pytest\n"
        "@pytest.mark.parametrize('n', range(12))\n"
        "def test_it(hut_slot, n): assert n != 3 or pathlib.Path('mended').exists()\n"
    )
    cached = ["--hut-slots=hut-01,hut-02", "-n", "2", "-o", f"cache_dir={lab.folder / 'cache'}"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", *cached, *arguments]
        return subprocess.run(
            command, cwd=lab.folder, env=lab.environment, capture_output=True, text=True, timeout=90, check=False
        )

    stopped = run("-x")
    chosen = run("-k", "3 or 4")
    (lab.folder / "mended").touch()
    again = run("--lf")

    assert stopped.returncode != 0 and "stopping after 1 failures" in stopped.stdout, stopped.stdout
    assert "1 failed, 1 passed" in chosen.stdout, chosen.stdout
    assert again.returncode == 0 and "1 passed" in again.stdout, again.stdout


def test_with_rerunfailures(lab: Lab) -> None:
    pytest.importorskip("pytest_rerunfailures")
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pathlib, pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_it(hut_slot, n):\n"
        "    path = pathlib.Path(f'tried-{n}')\n"
        "    if n % 2 and not path.exists():\n"
        "        path.touch()\n"
        "        raise AssertionError('first try')\n"
        "def test_never(hut_slot): raise AssertionError('never')\n"
    )

    session = lab.run("-n", "2", "--reruns", "1")

    outcomes = ran(session)
    assert Counter(outcome for _, outcome in outcomes.values()) == {"passed": 4, "failed": 1}, session.output
    assert "3 rerun" in session.output


def test_with_timeout(lab: Lab) -> None:
    pytest.importorskip("pytest_timeout")
    write_bench(lab, BENCH[:2])
    for slot in lab.slots:
        lab.preload(slot)
    lab.write_test(
        "import pytest\n"
        "def test_slow(hut_slot): hut_slot.console.expect('never printed', timeout=60)\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_it(hut_slot, n): pass\n"
    )

    signalled = lab.run("-n", "2", "--timeout=3")
    killed = lab.run("-n", "2", "--timeout=3", "--timeout-method=thread")

    assert (signalled.exit_code, killed.exit_code) == (1, 10), signalled.output + killed.output
    counts = sorted(str(sorted(Counter(test.outcome for test in report.tests).items())) for report in lab.reports())
    assert counts == ["[('crashed', 1), ('passed', 4)]", "[('failed', 1), ('passed', 4)]"]


def test_workers_killed_at_random(lab: Lab) -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(folder / "worker_chaos.py"), "--kills", "4", "--slots", "2", "--folder", str(lab.folder)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_sessions_on_overlapping_slots(lab: Lab) -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(folder / "session_chaos.py"), "--rounds", "2", "--folder", str(lab.folder)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
