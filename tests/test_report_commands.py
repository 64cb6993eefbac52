"""`hut report` and `hut handoff`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evidence_rig import COMMIT, STAMP, Ran, commit_all, hut_here, make_job, write_journals
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Lab

from pytest_hut.contracts.handoff import CHOICES, Handoff, handoff_line, parse_handoff
from pytest_hut.contracts.report import dump_report, read_report
from pytest_hut.events.journal import read_journal
from pytest_hut.events.types import SessionFinished, TestFinished
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.recording.manifest import check_manifest
from pytest_hut.recording.report import write_report

OTHER_COMMIT = "f" * 40
ONE_ERROR = re.compile(r"hut: error: [^\n]+\n")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# show


def test_show_says_what_a_person_wants_to_know(tmp_path: Path) -> None:
    tests = [Ran(), Ran(slot="hut-02", outcome="failed", kind="product", message="panicked \x1b[31m1.2 s after reset")]
    _, path = make_job(tmp_path / "job", tests, virtual=["hut-02"])
    code, said = hut_here("report", "show", path)
    assert code == 0
    assert said.startswith("failed: 1 passed, 1 failed on hut-02: HW-BOOT-001: panicked")
    for words in (
        "job:      GOAL-1 (runner)",
        "by:       ci on bench-host",
        f"commit:   {COMMIT}",
        "thread:   RUNNER-WS8-20260213A",
        "hut-01 (/dev/serial/by-id/hut-01) esp32",
        "hut-02 (virtual) esp32",
        "0 boots, 0 crashes, 1 power cycle\n",
        "failed (product)  HW-BOOT-001 hut-02  hil_tests/test_it.py::test_1  1.0 s",
        "next: Read the console log",
    ):
        assert words in said
    assert "\x1b" not in said


def test_show_json_is_the_report(tmp_path: Path) -> None:
    report, path = make_job(tmp_path / "job")
    code, said = hut_here("report", "show", "--json", path)
    assert (code, json.loads(said)) == (0, dump_report(report))


def test_show_of_a_report_of_steps(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    data = _minimal(
        steps=[
            {
                "number": 1,
                "command": ["uptime", "-p"],
                "status": "failed",
                "exit_code": 3,
                "start_utc": "2026-02-12T15:30:10Z",
                "duration_sec": 1.5,
                "output": "x",
                "output_bytes": 0,
                "output_sha256": "",
                "problem": "no such option",
            }
        ]
    )
    path.write_text(json.dumps(data))
    code, said = hut_here("report", "show", path)
    assert code == 0
    assert "1. failed uptime -p (1.5 s, exit code 3)\n      no such option\n" in said


@pytest.mark.parametrize("what", [["show"], ["show", "--json"], ["merge", "--output", "out.json", "x.json"]])
def test_a_bad_report_is_told_in_one_line(tmp_path: Path, what: list[str]) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"schema_version": "ws2.report.v1", "status": "good"}')
    code, said = hut_here("report", *what, path)
    assert code == 2
    assert ONE_ERROR.fullmatch(said)


# validate


def _minimal(**more: Any) -> dict[str, Any]:
    return {
        "schema_version": "ws2.report.v1",
        "job_id": "GOAL-001-WS2-0001",
        "agent_role": "runner",
        "status": "success",
        "start_utc": "2026-02-12T15:30:10Z",
        "end_utc": "2026-02-12T15:30:12Z",
        "duration_sec": 2,
        "exit_code": 0,
        "lock_key": "goal001-ws2-smoke",
        "human_summary": "All well.",
        **more,
    }


def test_validate_tells_every_mistake_with_file_key_and_value(tmp_path: Path) -> None:
    good, bad, none = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "none.json"
    good.write_text(json.dumps(_minimal(something_new={"a": 1})))
    data = _minimal(status="good", duration_sec="2", slots=[{"slot": "hut-01", "boots": -1}])
    del data["exit_code"]
    bad.write_text(json.dumps(data))

    code, said = hut_here("report", "validate", good, bad, none)

    lines = said.splitlines()
    assert code == 1
    assert lines[0] == f"{good}: ok"
    assert sorted(line.split(": ")[0] for line in lines[1:]) == [str(bad)] * 4 + [str(none)]
    for words in ('status = "good"', 'duration_sec = "2"', "slots.0.boots = -1", "exit_code is missing"):
        assert sum(words in line for line in lines) == 1, said
    assert hut_here("report", "validate", good)[0] == 0


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_keys = st.sampled_from([*_minimal(), "slots", "tests", "steps", "artifact_paths", "executor", "merged_from"])


@settings(max_examples=40, deadline=None)
@given(broken=st.dictionaries(_keys, _json, max_size=4))
def test_broken_reports_never_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, broken: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("report") / "report.json"
    path.write_text(json.dumps(_minimal(**broken)))
    code, said = hut_here("report", "validate", path)
    assert (code == 0) == (said == f"{path}: ok\n")
    for command in (["report", "show"], ["gate", "--require", "X"], ["handoff", "--next-action", "x", "--branch", "x"]):
        other, said = hut_here(*command, path)
        assert other in (0, 1, 2) and said
        assert command[0] == "gate" or (other == 0) == (code == 0), said


# merge


def _two_jobs(tmp_path: Path) -> tuple[Path, Path]:
    _, good = make_job(tmp_path / "one", [Ran(), Ran(hw_id="HW-OTA-001")], job_id="GOAL-1-hut-01")
    bad_test = Ran(slot="hut-02", outcome="failed", kind="product", message="panicked")
    _, bad = make_job(tmp_path / "two", [bad_test], job_id="GOAL-1-hut-02")
    return good, bad


def test_merge_says_what_all_of_them_say(tmp_path: Path) -> None:
    good, bad = _two_jobs(tmp_path)
    code, said = hut_here("report", "merge", good, bad, "--output", "merged.json")
    assert code == 0, said
    assert hut_here("report", "validate", "merged.json") == (0, "merged.json: ok\n")

    one, two, merged = read_report(good), read_report(bad), read_report(Path("merged.json"))
    assert (merged.status, merged.exit_code, merged.job_id) == ("failed", 1, "GOAL-1-hut-01_and_GOAL-1-hut-02")
    assert (merged.commit_sha, merged.lane, merged.thread_ref) == (COMMIT, "local-hil", "RUNNER-WS8-20260213A")
    assert merged.lock_key == "hut-01+hut-02"
    assert merged.human_summary.startswith("2 reports: 2 passed, 1 failed; GOAL-1-hut-02 (failed): ")
    assert merged.next_action == two.next_action
    assert merged.tests == one.tests + two.tests
    assert merged.slots == one.slots + two.slots
    assert merged.artifact_paths == one.artifact_paths + two.artifact_paths
    assert merged.start_utc == min(one.start_utc, two.start_utc) and merged.end_utc == max(one.end_utc, two.end_utc)
    assert [job.evidence_dir for job in merged.merged_from] == ["one", "two"]
    assert [job.manifest_sha256 for job in merged.merged_from] == [one.manifest_sha256, two.manifest_sha256]
    said = hut_here("report", "show", "merged.json")[1]
    assert "merged:   GOAL-1-hut-02: failed" in said


def test_what_is_merged_opens_the_gate_only_with_all_its_evidence(tmp_path: Path) -> None:
    good, _ = _two_jobs(tmp_path)
    _, other = make_job(tmp_path / "three", [Ran(slot="hut-03")], job_id="GOAL-1-hut-03")
    assert hut_here("report", "merge", good, other, "--output", "merged.json")[0] == 0
    gate = ["gate", "merged.json", "--require", "HW-BOOT-001", "--commit", COMMIT]
    assert hut_here(*gate)[0] == 0
    (tmp_path / "three" / "hut-03" / "console.log").write_text("rewritten")
    code, said = hut_here(*gate)
    assert code == 1
    assert "was changed" in said
    shutil.rmtree("three")
    code, said = hut_here(*gate)
    assert code == 1
    assert "evidence of job GOAL-1-hut-03 is neither" in said


def test_two_jobs_in_a_row_on_one_board_add_up(tmp_path: Path) -> None:
    _, first = make_job(tmp_path / "one", [Ran()], job_id="A")
    _, second = make_job(tmp_path / "two", [Ran()], job_id="B")
    hut_here("report", "merge", first, second, "--output", "merged.json")
    [slot] = read_report(Path("merged.json")).slots
    assert (slot.slot, slot.power_cycles, len(slot.power_cycle_results), slot.lock_waited_sec) == ("hut-01", 2, 2, 1.0)


def test_a_virtual_and_a_real_board_stay_two(tmp_path: Path) -> None:
    _, first = make_job(tmp_path / "one", [Ran()], job_id="A")
    _, second = make_job(tmp_path / "two", [Ran()], job_id="B", virtual=["hut-01"])
    hut_here("report", "merge", first, second, "--output", "merged.json")
    assert [slot.virtual for slot in read_report(Path("merged.json")).slots] == [False, True]
    assert hut_here("gate", "merged.json", "--require", "HW-BOOT-001")[0] == 1


def test_merging_what_is_merged_loses_nothing(tmp_path: Path) -> None:
    good, bad = _two_jobs(tmp_path)
    hut_here("report", "merge", good, bad, "--output", "merged.json")
    _, third = make_job(tmp_path / "three", [Ran(slot="hut-03")], job_id="GOAL-1-hut-03")
    code, said = hut_here("report", "merge", "merged.json", third, "--output", "all.json")
    assert code == 0, said
    merged = read_report(Path("all.json"))
    assert [job.job_id for job in merged.merged_from] == ["GOAL-1-hut-01", "GOAL-1-hut-02", "GOAL-1-hut-03"]
    assert len(merged.tests) == 4


def test_merge_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    good, bad = _two_jobs(tmp_path)
    data = json.loads(good.read_text())
    data["measurements"] = {"boot_s": 0.5}
    good.write_text(json.dumps(data))
    hut_here("report", "merge", good, bad, "--output", "merged.json")
    assert json.loads(Path("merged.json").read_text())["merged_from"][0]["measurements"] == {"boot_s": 0.5}


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    good, bad = _two_jobs(tmp_path)
    _, other = make_job(tmp_path / "other", [Ran()], job_id="C", commit=OTHER_COMMIT)
    hut_here("report", "merge", good, bad, "--output", "merged.json")
    refused: list[tuple[list[str | Path], str]] = [
        ([good, other, "--output", "out.json"], f"commit_sha = {COMMIT}, and {other} has {OTHER_COMMIT}"),
        ([good, good, "--output", "out.json"], "the same run of job GOAL-1-hut-01"),
        (["merged.json", good, "--output", "out.json"], "the same run of job GOAL-1-hut-01"),
        ([good, "--output", "out.json"], "at least two"),
        ([good, bad, "--output", bad], "is one of the reports"),
        ([good, bad, "--output", tmp_path / "one"], "cannot be written"),
    ]
    for arguments, words in refused:
        code, said = hut_here("report", "merge", *arguments)
        assert code in (2, 3)
        assert ONE_ERROR.fullmatch(said)
        assert words in said
    assert not Path("out.json").exists()
    assert read_report(bad).job_id == "GOAL-1-hut-02"


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["success", "cancelled"], "cancelled"),
        (["cancelled", "timeout", "success"], "timeout"),
        (["timeout", "failed", "cancelled"], "failed"),
        (["success", "success"], "success"),
    ],
)
def test_the_worst_status_wins(statuses: list[str], worst: str) -> None:
    names = []
    for number, status in enumerate(statuses):
        names.append(f"{number}.json")
        code = number * 11 if status != "success" else 0
        Path(names[-1]).write_text(json.dumps(_minimal(job_id=f"J{number}", status=status, exit_code=code)))
    assert hut_here("report", "merge", *names, "--output", "merged.json")[0] == 0
    merged = read_report(Path("merged.json"))
    assert (merged.status, merged.exit_code) == (worst, 0 if worst == "success" else statuses.index(worst) * 11)


# rebuild

BLOCKS = """
import pytest

@pytest.mark.hut_each
def test_first(hut_slot): hut_slot.boot()

@pytest.mark.hut_each
def test_second(hut_slot, power_relay):
    power_relay.off()
    hut_slot.console.expect("never printed", timeout=60)
"""


@contextlib.contextmanager
def _killed_session(lab: Lab) -> Iterator[Path]:
    """Yield the folder of a session whose controller and workers were killed in the middle of a test."""
    lab.write_slots("hut-01", "hut-02")
    for slot_id in lab.slots:
        lab.preload(slot_id)
    lab.write_test(BLOCKS)
    process = lab.start("-n", "2", "--hut-job-id=KILLED", "--hut-thread-ref=T-1")
    try:
        deadline = time.monotonic() + 60
        while not all(any(e["event"] == "PowerSwitched" for e in lab.events(slot_id)) for slot_id in lab.slots):
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        [folder] = lab.folder.glob("build/hut/KILLED_*")
        code, said = hut_here("report", "rebuild", folder)
        assert code == 2
        assert f"still runs (pid {process.pid})" in said
        assert not list(folder.glob("*_report_*"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    assert not any(isinstance(event, SessionFinished) for event in read_journal(folder / "session.jsonl"))
    yield folder


def test_rebuild_makes_the_report_of_a_session_that_was_killed(lab: Lab) -> None:
    with _killed_session(lab) as folder:
        copied = shutil.copytree(folder, lab.folder / "elsewhere" / "copy")
        for place in (folder, copied):
            code, said = hut_here("report", "rebuild", place)
            assert code == 0, said
            assert said.startswith(
                "failed: The session was killed before it could finish; until then: 2 passed, while "
            )
            [path] = place.glob("runner_hil_report_*_utc.json")
            assert str(path.relative_to(lab.folder)) in said
            report = read_report(path)
            assert (report.job_id, report.status, report.exit_code, report.thread_ref) == (
                "KILLED",
                "failed",
                -1,
                "T-1",
            )
            assert sorted((test.slot, test.outcome) for test in report.tests) == [
                ("hut-01", "passed"),
                ("hut-02", "passed"),
            ]
            assert [(slot.slot, slot.boots) for slot in report.slots] == [("hut-01", 1), ("hut-02", 1)]
            assert report.evidence_dir == str(place.relative_to(lab.folder))
            assert report.manifest_sha256 and check_manifest(place, report.manifest_sha256) == []
            assert all(Path(name).is_file() for test in report.tests for name in test.evidence)
            assert all(name.startswith(report.evidence_dir) for test in report.tests for name in test.evidence)
            assert all(Path(name).is_file() for name in report.artifact_paths)
            assert list(place.glob("runner_hil_junit_*_utc.xml"))
            code, said = hut_here("gate", path, "--require", "X", "--allow-virtual")
            assert code == 1
            assert "was killed" in said
    assert all(LockFile(lab.lock(slot_id)).holder() is None for slot_id in lab.slots)


def test_rebuild_of_a_job_that_ended_but_has_no_report(tmp_path: Path) -> None:
    write_journals(tmp_path / "job", [Ran()])
    code, said = hut_here("report", "rebuild", "job")
    assert (code, said) == (0, f"success: 1 passed\nreport: job/runner_hil_report_{STAMP}_utc.json\n")
    report = read_report(Path("job") / f"runner_hil_report_{STAMP}_utc.json")
    assert [test.evidence for test in report.tests] == [["job/hut-01/console.log"]]
    assert report.executor is not None
    assert (report.executor.hostname, report.executor.user) == ("bench-host", "ci"), "where it ran, not where we are"
    code, said = hut_here("report", "rebuild", "job")
    assert code == 2
    assert "has its report already" in said


def test_rebuild_does_not_mind_a_line_cut_short(tmp_path: Path) -> None:
    job = write_journals(tmp_path / "job", [Ran(), Ran()], killed=True)
    journal = job.path / "session.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert hut_here("report", "rebuild", "job")[0] == 0
    assert len([e for e in read_journal(journal) if isinstance(e, TestFinished)]) == 1


def test_rebuild_is_not_fooled_by_a_process_of_the_same_number(tmp_path: Path) -> None:
    job = write_journals(tmp_path / "job", killed=True, pid=os.getpid(), hostname=socket.gethostname())
    assert hut_here("report", "rebuild", "job")[0] == 2
    journal = job.path / "session.jsonl"
    first, rest = journal.read_text().split("\n", 1)
    journal.write_text(json.dumps({**json.loads(first), "utc": "2001-01-01T00:00:00.000Z"}) + "\n" + rest)
    assert hut_here("report", "rebuild", "job")[0] == 0


def test_rebuild_refuses_what_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_journals(tmp_path / "traversal")
    hostile = tmp_path / "traversal" / "session.jsonl"
    hostile.write_text(hostile.read_text().replace(STAMP, "../../x"))
    write_journals(tmp_path / "strange")
    strange = tmp_path / "strange" / "session.jsonl"
    strange.write_text(strange.read_text().replace('"passed"', '"great"'))
    before = sorted(tmp_path.rglob("*"))
    for name, words in (
        ("nowhere", "no folder of a job"),
        ("empty", "no folder of a job"),
        ("traversal", "is damaged"),
        ("strange", "are damaged"),
    ):
        code, said = hut_here("report", "rebuild", name)
        assert code == 2
        assert ONE_ERROR.fullmatch(said)
        assert words in said
    assert sorted(tmp_path.rglob("*")) == before


# handoff

_handoffs = st.builds(
    Handoff,
    utc=st.just("2026-02-13T21:57:05Z"),
    role=st.sampled_from(CHOICES["role"]),
    thread_ref=st.text(),
    context=st.sampled_from(CHOICES["context"]),
    action_type=st.sampled_from(CHOICES["action_type"]),
    operator_required=st.sampled_from(CHOICES["operator_required"]),
    executor=st.sampled_from(CHOICES["executor"]),
    branch=st.text(),
    head=st.text(),
    evidence=st.lists(st.text(), max_size=3).map(tuple),
    next_action=st.text(),
)


@given(_handoffs)
def test_a_hand_over_line_can_be_read_back(handoff: Handoff) -> None:
    line = handoff_line(handoff)
    assert "\n" not in line and line.isascii() and line.isprintable()
    assert parse_handoff(line) == handoff


@given(st.text() | st.lists(st.sampled_from(["utc=1", "role=runner", " ", "evidence=", '"', "\\", "x=1"])).map("".join))
def test_what_is_no_hand_over_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_handoff(text)
    assert str(refused.value)


def test_the_line_says_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    (tmp_path / "file").touch()
    commit = commit_all(tmp_path)
    make_job(tmp_path / "a job", [Ran()], commit=commit)
    [path] = Path("a job").glob("*_report_*.json")
    code, said = hut_here("handoff", path)
    assert code == 0, said
    assert said == (
        f"{said[:24]} role=runner thread_ref=RUNNER-WS8-20260213A context=runner-live action_type=execute "
        f"operator_required=no executor=remote_codex branch=main head={commit} "
        f'evidence="{path}" evidence="a job" next_action="Nothing to do."\n'
    )
    assert re.fullmatch(r"utc=20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", said[:24])


def test_every_item_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    _, path = make_job(tmp_path / "job", [Ran(outcome="error", kind="infrastructure")])
    said = hut_here("handoff", path)[1]
    line = parse_handoff(said.rstrip("\n"))
    assert (line.operator_required, line.executor, line.branch, line.head) == ("yes", "ssh_direct", "none", COMMIT)
    options = ["--role", "infra", "--context", "arch-local", "--action-type", "replan", "--operator-required", "no"]
    options += ["--executor", "remote_codex", "--next-action", 'Plug in "hut-01"\nthen run', "--branch", "a b"]
    line = parse_handoff(hut_here("handoff", path, *options, "--thread-ref", "X=1")[1].rstrip("\n"))
    assert (line.role, line.context, line.action_type) == ("infra", "arch-local", "replan")
    assert (line.operator_required, line.executor, line.branch) == ("no", "remote_codex", "a b")
    assert (line.next_action, line.thread_ref) == ('Plug in "hut-01"\nthen run', "X=1")


def test_a_line_that_would_mislead_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    commit_all(tmp_path)
    _, path = make_job(tmp_path / "job", [Ran()])
    code, said = hut_here("handoff", path)
    assert code == 2
    assert ONE_ERROR.fullmatch(said)
    assert "give --branch" in said
    Path("r.json").write_text(json.dumps(_minimal()))
    code, said = hut_here("handoff", "r.json")
    assert code == 2
    assert "give --next-action" in said
    code, said = hut_here("handoff", "r.json", "--role", "nobody")
    assert (code, said.count("\n")) == (2, 1)


def test_reports_of_hand_made_jobs_are_what_the_rest_relies_on(tmp_path: Path) -> None:
    report, path = make_job(tmp_path / "job")
    write_report(report, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
