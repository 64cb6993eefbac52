"""Sessions of several slots in which something goes wrong in an unusual place: nothing is lost, nothing hangs."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter

import pytest
from lab import Lab
from scheduling_rig import BENCH, ran, write_bench

from pytest_hut.lease.lockfile import LockFile

BENCH_FAILS = """
import pytest
from pytest_hut import PortError

@pytest.fixture(scope="module")
def shared(): yield

@pytest.mark.hut(chip="esp32s3")
@pytest.mark.parametrize("n", range(4))
def test_bad(hut_slot, shared, n):
    raise PortError("loose")
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_tries_of_rerunfailures_do_not_count_against_a_slot(lab: Lab, workers: str) -> None:
    pytest.importorskip("pytest_rerunfailures")
    write_bench(lab, BENCH[2:])
    lab.write_test(BENCH_FAILS.replace("raise", "if n == 0: raise"))

    session = lab.run("-n", workers, "--reruns", "2")

    outcomes = ran(session)
    assert Counter(outcome for _, outcome in outcomes.values()) == {"passed": 3, "failed": 1}, session.output
    assert session.report.slots[0].quarantined is None


def test_a_rerun_on_several_boards_has_them_again(lab: Lab) -> None:
    pytest.importorskip("pytest_rerunfailures")
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pathlib\n"
        "def test_pair(hut_slots):\n"
        "    path = pathlib.Path('tried')\n"
        "    tried = path.exists()\n"
        "    path.touch()\n"
        "    assert tried and len(hut_slots) == 2\n"
    )

    assert lab.run("-n", "2", "--reruns", "1").exit_code == 0


def test_tests_sent_back_leave_no_fixtures_behind(lab: Lab) -> None:
    write_bench(lab, BENCH[2:])
    lab.write_test(BENCH_FAILS)
    lab.write_test("def test_plain(): pass\n", "test_later.py")

    session = lab.run("-n", "1", "--hut-quarantine-after=1")

    outcomes = ran(session)
    assert outcomes["test_plain"] == (None, "passed"), session.output
    assert "not torn down" not in session.output
    assert {test.kind for test in session.report.tests if "bad" in test.node_id} == {"infrastructure"}


def test_a_partner_that_cannot_be_had_is_the_one_to_blame(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    path = lab.folder / "slots.toml"
    good, bad = path.read_text().split("[slots.hut-02]\n")
    bad = bad.replace("virtual = true\n", 'port = "/dev/no-such-board"\nport_timeout_s = 0.1\n')
    path.write_text(f"{good}[slots.hut-02]\n{bad.split('[slots.hut-02.virtual_board]')[0]}")
    lab.write_test(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_pair(hut_slots, n): pass\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_single(hut_slot, n): pass\n"
    )

    session = lab.run("-n", "2")

    first, second = session.report.slots
    assert first.quarantined is None and second.quarantined is not None, session.output
    assert {ran(session)[f"test_single[{n}]"] for n in range(3)} == {("hut-01", "passed")}


def test_the_whole_try_of_a_moved_test_does_not_count(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import pytest\n"
        "from pytest_hut import RelayError\n"
        "@pytest.fixture\n"
        "def powered(hut_slot):\n"
        "    yield\n"
        "    if hut_slot.id == 'hut-01': raise RelayError('still dead')\n"
        "@pytest.mark.parametrize('n', range(2))\n"
        "def test_it(hut_slot, powered, n):\n"
        "    if hut_slot.id == 'hut-01': raise RelayError('dead')\n"
    )

    session = lab.run("-n", "2")

    assert session.exit_code == 0, session.output
    assert set(ran(session).values()) == {("hut-02", "passed")}


def test_a_failure_of_the_bench_is_not_an_expected_one(lab: Lab) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test(
        "import pytest\n"
        "from pytest_hut import PortError\n"
        "@pytest.mark.xfail(reason='known')\n"
        "def test_bench(hut_slot): raise PortError('loose')\n"
        "@pytest.mark.xfail(reason='known')\n"
        "def test_product(hut_slot): assert False\n"
        "@pytest.mark.xfail(raises=PortError)\n"
        "def test_wanted(hut_slot): raise PortError('loose')\n"
    )

    session = lab.run()

    assert session.exit_code == 10, session.output
    outcomes = {name: outcome for name, (_, outcome) in ran(session).items()}
    assert outcomes == {"test_bench": "failed", "test_product": "xfailed", "test_wanted": "xfailed"}


@pytest.mark.skipif(not hasattr(pytest, "SubtestReport"), reason="this pytest has no subtests")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_subtests(lab: Lab, workers: str) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test(
        "import pytest\n"
        "from pytest_hut import PortError\n"
        "def test_bench(hut_slot, subtests):\n"
        "    with subtests.test(): raise PortError('loose')\n"
        "def test_product(hut_slot, subtests):\n"
        "    with subtests.test(): assert False, 'wrong'\n"
        "def test_skip(hut_slot, subtests):\n"
        "    with subtests.test(): pytest.skip('not this one')\n"
    )

    session = lab.run("-n", workers)

    ran(session)
    assert session.exit_code == 1, session.output
    found = {test.node_id.split("::")[1]: (test.outcome, test.kind) for test in session.report.tests}
    assert found == {
        "test_bench": ("failed", "infrastructure"),
        "test_product": ("failed", "product"),
        "test_skip": ("passed", None),
    }


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("count=0", "count is a number of boards, at least 1, not 0"),
        ("count='2'", "count is a number of boards, at least 1, not '2'"),
        ("chip=5", "chip is a chip or a list of chips, not 5"),
        ("features=[1]", "features is a word or a list of words, not [1]"),
        ("chips='esp32'", "there is no 'chips'"),
        ("'esp32'", "'esp32' has no name"),
    ],
)
def test_a_marker_without_meaning_is_told_in_a_sentence(lab: Lab, marker: str, told: str) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test(
        "import pytest\n"
        f"@pytest.mark.parametrize('n', [pytest.param(1, marks=pytest.mark.hut({marker}))])\n"
        "def test_it(hut_slot, n): pass\n"
    )

    for workers in ("0", "1"):
        session = lab.run("-n", workers)

        assert session.exit_code in (1, 2) and told in session.output, session.output
        assert "Traceback" not in session.output and "INTERNALERROR" not in session.output


@pytest.mark.parametrize("workers", ["0", "3"])
def test_several_boards_with_each_slot_as_the_first(lab: Lab, workers: str) -> None:
    write_bench(lab, (BENCH[2], *BENCH[:2]))
    lab.write_test(
        "import pytest\n"
        "@pytest.mark.hut(chip='esp32', count=2)\n"
        "def test_pair(hut_slots): assert {slot.chip for slot in hut_slots} == {'esp32'}\n"
        "@pytest.mark.hut_each\n"
        "@pytest.mark.hut(chip='esp32', count=2)\n"
        "def test_each(hut_slots): assert len(hut_slots) == 2\n"
    )

    outcomes = ran(lab.run("-n", workers))

    assert {outcome for _, outcome in outcomes.values()} == {"passed"}
    assert {outcomes[f"test_each[{slot}]"][0] for slot in ("hut-01", "hut-02")} == {"hut-01", "hut-02"}


def test_a_plain_test_needs_no_boards_whatever_its_module_says(lab: Lab) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test("import pytest\npytestmark = pytest.mark.hut(count=2)\ndef test_plain(): pass\n")

    assert lab.run("-n", "1").exit_code == 0


def test_a_new_worker_that_collects_other_tests_ends_the_session(lab: Lab) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test(
        "import os, pathlib\n"
        "flag = pathlib.Path('flag')\n"
        "if flag.exists():\n"
        "    def test_more(): pass\n"
        "def test_it(hut_slot):\n"
        "    flag.touch()\n"
        "    os._exit(3)\n"
        "def test_other(hut_slot): pass\n"
    )

    session = lab.run("-n", "1")

    assert "collected other tests than the others" in session.output


def test_hooks_of_others_never_see_what_is_no_test(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "def pytest_runtest_setup(item): item.function\n"
        "def pytest_runtest_call(item): item.function\n"
        "def pytest_runtest_teardown(item): item.function\n",
        "conftest.py",
    )
    lab.write_test("def test_pair(hut_slots): pass\ndef test_it(hut_slot): pass\n")

    assert lab.run("-n", "2").exit_code == 0


def test_stopping_at_a_failure_is_no_cancelling(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    for error, told in (("PortError('loose')", 10), ("AssertionError", 2)):
        lab.write_test(
            "from pytest_hut import PortError\nimport pytest\n"
            f"@pytest.mark.parametrize('n', range(8))\ndef test_it(hut_slot, n): raise {error}\n"
        )
        session = lab.run("-n", "2", "-x")

        report = lab.reports()[-1]
        assert (session.exit_code, report.exit_code, report.status) == (told, told, "failed"), session.output


def test_an_interrupt_while_waiting_for_a_lock_is_reported(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test("def test_it(hut_slot): pass\n")
    with LockFile(lab.lock("hut-02"), "OTHER-JOB").acquire(1):
        process = lab.start("-n", "2")
        assert process.stdout is not None
        while "waiting for" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    [report] = lab.reports()
    assert (process.returncode, report.status, report.exit_code) == (2, "cancelled", 2)


def test_workers_counted_by_tx(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test("def test_it(hut_slot): pass\n")

    assert lab.run("--dist=load", "--tx", "2*popen").exit_code == 0
    assert lab.run("--dist=load", "--tx", "3*popen").exit_code == pytest.ExitCode.USAGE_ERROR
    assert ran(lab.run("--tx", "popen"))["test_it"] == ("hut-01", "passed")


def test_each_result_keeps_its_slot_where_all_workers_run_the_same(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.write_test(
        "import os, pathlib, time, pytest\n"
        "@pytest.fixture\n"
        "def ends_last(hut_slot):\n"
        "    yield\n"
        "    pathlib.Path(f'at-end-{hut_slot.id}').touch()\n"
        "    end = time.monotonic() + 20\n"
        "    while len(list(pathlib.Path().glob('at-end-*'))) < 2 and time.monotonic() < end: time.sleep(0.01)\n"
        "    time.sleep(0.5 if hut_slot.id == 'hut-01' else 0.1)\n"
        "def test_it(hut_slot, ends_last): assert hut_slot.id != 'hut-01'\n"
    )

    session = lab.run("-n", "2", "--dist=each")

    assert {(test.slot, test.outcome) for test in session.report.tests} == {("hut-01", "failed"), ("hut-02", "passed")}


def test_a_long_folder_for_temporary_files(lab: Lab) -> None:
    write_bench(lab, BENCH[:1])
    lab.write_test("def test_it(hut_slot): pass\n")
    folder = lab.folder / ("long" * 30)
    folder.mkdir()
    done = subprocess.run(
        lab.command("-n", "1"),
        cwd=lab.folder,
        env={**lab.environment, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_lock_that_cannot_be_one_is_an_error_of_the_tests_without_xdist(lab: Lab) -> None:
    write_bench(lab, BENCH[:2])
    lab.lock("hut-02").mkdir()
    lab.write_test("def test_pair(hut_slots): pass\ndef test_plain(): pass\n")

    session = lab.run()

    assert session.exit_code == 10, session.output
    assert {name: outcome for name, (_, outcome) in ran(session).items()} == {
        "test_pair": "error",
        "test_plain": "passed",
    }
