"""A pytest session is a job: time limit, cancel flag, evidence, and what other tools read of it."""

from __future__ import annotations

import signal
import subprocess
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml
from lab import Lab

from pytest_hut.contracts.guardrails import cancel_flag
from pytest_hut.contracts.report import Report, TestRecord
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.recording.github import failure_annotations
from pytest_hut.recording.junit import write_junit
from pytest_hut.recording.manifest import MANIFEST_NAME, check_manifest

LEAVES_POWER_OFF = """
import pytest

@pytest.mark.hut_each
def test_takes_too_long(hut_slot, power_relay):
    power_relay.off()
    hut_slot.console.expect("never printed", timeout=60)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_time_limit_stops_a_test_where_it_stands(lab: Lab, workers: str) -> None:
    lab.write_slots("hut-01", "hut-02")
    for slot_id in lab.slots:
        lab.preload(slot_id)  # A blank board says that it cannot boot, which would end the wait before its time.
    lab.write_test(LEAVES_POWER_OFF)

    session = lab.run("-n", workers, "--hut-timeout=4", "--hut-thread-ref=RUNNER-WS8-20260213A")

    report = session.report
    assert (report.status, report.thread_ref) == ("timeout", "RUNNER-WS8-20260213A"), session.output
    assert "time limit of 4 s" in report.human_summary
    assert report.duration_sec < 20
    for slot_id in ["hut-01"] if workers == "0" else lab.slots:
        assert (lab.home / ".local/state/hut/virtual" / slot_id / "power").read_text().strip() == "on"
        assert LockFile(lab.lock(slot_id)).holder() is None


@pytest.mark.parametrize("limit", ["0", "-1", "14401", "nan"])
def test_a_time_limit_out_of_bounds_is_a_usage_error(lab: Lab, limit: str) -> None:
    lab.write_slots("hut-01")
    session = lab.run(f"--hut-timeout={limit}")
    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "at most 14400 s" in session.output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_cancel_flag_is_honoured_between_tests(lab: Lab, workers: str) -> None:
    job_id = f"CANCEL-{uuid.uuid4()}"
    flag = cancel_flag(job_id)
    lab.write_slots("hut-01")
    lab.write_test(
        "import pathlib\n"
        f"def test_one(hut_slot): pathlib.Path({str(flag)!r}).touch()\n"
        "def test_two(hut_slot): pass\n"
        "def test_three(hut_slot): pass\n"
    )
    try:
        session = lab.run("-n", workers, f"--hut-job-id={job_id}")
    finally:
        flag.unlink(missing_ok=True)

    report = session.report
    assert report.status == "cancelled", session.output
    assert str(flag) in report.human_summary
    assert [test.node_id for test in report.tests] == ["test_it.py::test_one"]


def test_evidence_is_complete_and_sealed(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("import pytest\n@pytest.mark.hw_test('HW-X-001')\ndef test_it(hut_slot): assert False, 'no'")

    report = lab.run().report

    assert report.evidence_dir is not None and report.manifest_sha256 is not None
    folder = lab.folder / report.evidence_dir
    names = {Path(path).name for path in report.artifact_paths}
    assert all((lab.folder / path).is_file() for path in report.artifact_paths)
    assert MANIFEST_NAME in names and "session.jsonl" in names
    assert check_manifest(folder, report.manifest_sha256) == []
    subprocess.run(["sha256sum", "--check", "--quiet", MANIFEST_NAME], cwd=folder, check=True)

    [junit] = folder.glob("runner_hil_junit_*_utc.xml")
    [suite] = JUnitXml.fromfile(str(junit))
    [case] = suite
    assert isinstance(case.result[0], Failure)
    properties = {element.get("name"): element.get("value") for element in ET.parse(junit).iter("property")}
    assert properties.items() >= {"slot": "hut-01", "hw_id": "HW-X-001", "kind": "product"}.items()

    (folder / "session.jsonl").write_text("rewritten")
    (folder / "hut-01" / "events_main.jsonl").unlink()
    wrong = check_manifest(folder, report.manifest_sha256)
    assert len(wrong) == 2
    assert any("was changed" in line for line in wrong) and any("is missing" in line for line in wrong)


def test_old_runs_are_never_overwritten(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("def test_it(hut_slot): pass")
    for _ in range(2):
        assert lab.run("--hut-job-id=SAME").exit_code == 0
    assert [path.name for path in sorted((lab.folder / "build" / "hut").iterdir())] == ["SAME_none", "SAME_none_2"]


def test_on_github_the_page_and_the_annotations_tell_kinds_apart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = lab.folder / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    lab.write_slots("hut-01")
    lab.write_test(
        "from pytest_hut import PortError\n"
        "def test_product(hut_slot): assert 'a|b' == 'c'\n"
        "def test_bench(hut_slot): raise PortError('unplugged, 100 % sure')\n"
    )

    output = lab.run().output

    assert "::error file=test_it.py,title=test_it.py%3A%3Atest_product on hut-01 (product)::" in output
    assert "::warning file=test_it.py,title=test_it.py%3A%3Atest_bench on hut-01 (infrastructure)::" in output
    assert "unplugged, 100 %25 sure" in output
    page = summary.read_text()
    assert "| hut-01 (virtual) |" in page
    assert "a\\|b" in page


@given(st.text(), st.text(min_size=1))
def test_any_message_fits_junit_and_annotations(
    tmp_path_factory: pytest.TempPathFactory, message: str, name: str
) -> None:
    report = Report(
        schema_version="ws2.report.v1",
        job_id="J",
        agent_role="runner",
        status="failed",
        start_utc="2026-02-12T15:30:10Z",
        end_utc="2026-02-12T15:30:12Z",
        duration_sec=2,
        exit_code=1,
        lock_key="k",
        human_summary="s",
        tests=[TestRecord(node_id=name, outcome="error", kind="infrastructure", duration_sec=1, message=message)],
    )
    path = tmp_path_factory.mktemp("junit") / "junit.xml"
    write_junit(report, path)
    [suite] = JUnitXml.fromfile(str(path))
    assert isinstance(next(iter(suite)).result[0], Error)
    [command] = failure_annotations(report)
    assert "\n" not in command and "\r" not in command


MIXED = """
import os, signal, pytest

@pytest.mark.hut_each
@pytest.mark.parametrize("number", range(3))
def test_each(hut_slot, number): pass

@pytest.mark.parametrize("number", range(4))
def test_anywhere(hut_slot, number): pass

def test_without_a_slot(): pass

def test_fails(hut_slot): assert False

@pytest.mark.skip(reason="not today")
def test_skipped(hut_slot): pass
"""


@pytest.mark.parametrize(
    "arguments", [["-n0"], ["-n1"], ["-n2"], ["-n2", "--maxfail=1"], ["-p", "no:xdist"]], ids=" ".join
)
def test_every_test_that_ran_is_named_once_with_its_slot(lab: Lab, arguments: list[str]) -> None:
    lab.write_slots("hut-01", "hut-02")
    lab.write_test(MIXED)

    session = lab.run("-v", *arguments)

    report = session.report
    names = [test.node_id for test in report.tests]
    assert len(names) == len(set(names))
    if "--maxfail=1" not in arguments:
        passed = 3 * (1 if arguments == ["-n1"] else 2) + 4 + 1
        assert len(names) == passed + 2, session.output
        assert report.human_summary.startswith(f"{passed} passed, 1 failed, 1 skipped")
    for test in report.tests:
        assert test.outcome == {"test_fails": "failed", "test_skipped": "skipped"}.get(
            test.node_id.split("::")[1], "passed"
        )
        if "test_each" in test.node_id:
            assert test.slot is not None and test.slot in test.node_id
        elif "test_anywhere" in test.node_id:
            assert test.slot in lab.slots
        elif "without" in test.node_id:
            assert test.slot is None


def test_sigterm_in_the_middle_of_a_flash(lab: Lab) -> None:
    lab.write_slots("hut-01", "hut-02", board="paced = true")
    lab.write_test(
        "import pytest\n@pytest.mark.hut_each\ndef test_it(hut_slot, flashed_firmware): pass\n",
    )
    session = lab.start("-n", "2")
    assert session.stdout is not None
    writing: set[str] = set()
    for line in session.stdout:
        writing |= {slot_id for slot_id in lab.slots if f"{slot_id}: writing recovery" in line}
        if len(writing) == 2:
            break

    session.send_signal(signal.SIGTERM)
    output = session.communicate(timeout=60)[0]

    [report] = lab.reports()
    assert report.status == "cancelled", output
    assert session.returncode == pytest.ExitCode.INTERRUPTED
    for slot_id in lab.slots:
        assert LockFile(lab.lock(slot_id)).holder() is None
        assert [event["event"] for event in lab.events(slot_id)][-1] == "SlotReleased"
    lab.write_slots("hut-01", "hut-02")
    assert lab.run("-n", "2").exit_code == 0, "what was half written is written anew"
