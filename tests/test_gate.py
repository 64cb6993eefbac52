"""`hut gate` opens for proof, and for nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from evidence_rig import COMMIT, Ran, commit_all, hut_here, make_job
from lab import HW_BOOT_001, Lab

from pytest_hut.contracts.report import read_report
from pytest_hut.events.types import SessionFinished
from pytest_hut.recording.manifest import write_manifest
from pytest_hut.recording.report import write_report

OTHER_COMMIT = "f" * 40
BOTH = [Ran(slot="hut-01"), Ran(slot="hut-02"), Ran(hw_id="HW-OTA-001", slot="hut-02"), Ran(hw_id=None)]


def gate(report: Path, *more: str, require: tuple[str, ...] = ("HW-BOOT-001",)) -> tuple[int, list[str]]:
    """Return exit code and lines."""
    code, said = hut_here("gate", report, *[word for hw_id in require for word in ("--require", hw_id)], *more)
    return code, said.splitlines()


def test_it_opens_for_what_passed_on_real_boards_of_the_commit(tmp_path: Path) -> None:
    _, path = make_job(tmp_path / "job", BOTH)
    for more in ([], ["--commit", COMMIT]):
        code, lines = gate(path, *more, require=("HW-BOOT-001", "HW-OTA-001", "HW-BOOT-001"))
        assert (code, len(lines)) == (0, 1), lines
        assert lines[0].startswith("open: HW-BOOT-001, HW-OTA-001 passed")


def test_evidence_may_be_copied_with_its_report(tmp_path: Path) -> None:
    make_job(tmp_path / "job", BOTH)
    copied = shutil.copytree(tmp_path / "job", tmp_path / "elsewhere" / "renamed")
    shutil.rmtree(tmp_path / "job")
    [path] = copied.glob("*_report_*.json")
    assert gate(path)[0] == 0


def test_a_report_written_elsewhere_leads_to_its_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report, _ = make_job(tmp_path / "build" / "job", BOTH)
    assert report.evidence_dir == "build/job"
    write_report(report, tmp_path / "report.json")
    assert gate(Path("report.json"))[0] == 0
    shutil.rmtree("build")
    code, lines = gate(Path("report.json"))
    assert code == 1
    assert "neither beside report.json nor in build/job" in lines[0]


CLOSED = {
    "another commit": (BOTH, {}, ["--commit", OTHER_COMMIT], [f"is of commit {COMMIT}, not of {OTHER_COMMIT}"]),
    "no commit": (BOTH, {"commit": "none"}, [], ["of no commit (commit_sha is none)"]),
    "short commit": (BOTH, {"commit": COMMIT[:12]}, [], ["of no commit"]),
    "not run": ([Ran(hw_id="HW-OTA-001")], {}, [], ["HW-BOOT-001 was not run"]),
    "nothing ran": ([], {}, [], ["HW-BOOT-001 was not run"]),
    "failed": (
        [Ran(), Ran(slot="hut-02", outcome="failed", kind="product", message="it\npanicked")],
        {},
        [],
        ["on hut-02 did not pass: failed (product): it panicked"],
    ),
    "infrastructure": ([Ran(outcome="error", kind="infrastructure")], {}, [], ["error (infrastructure)"]),
    "crashed": ([Ran(), Ran(outcome="crashed", kind="infrastructure")], {}, [], ["did not pass: crashed"]),
    "skipped": (
        [Ran(), Ran(slot="hut-02", outcome="skipped", message="needs psram")],
        {},
        [],
        ["skipped: needs psram"],
    ),
    "expected to fail": ([Ran(outcome="xfailed")], {}, [], ["did not pass: xfailed"]),
    "passed by surprise": ([Ran(outcome="xpassed")], {}, [], ["did not pass: xpassed"]),
    "virtual": ([Ran(), Ran(slot="hut-02")], {"virtual": ["hut-02"]}, [], ["on hut-02 ran on a virtual board"]),
    "no slot": ([Ran(slot="")], {}, ["--allow-virtual"], ["ran on no slot"]),
    "killed": (BOTH, {"killed": True}, [], ["was killed before it had run all its tests"]),
    "cancelled": (
        BOTH,
        {"finished": SessionFinished(exit_code=2, cause="cancel", reason="cancelled by a flag")},
        [],
        ["ended before it had run all its tests (cancelled by a flag)"],
    ),
    "maxfail": (
        [*BOTH, Ran(hw_id="HW-X-001", outcome="failed")],
        {"finished": SessionFinished(exit_code=1, reason="stopping after 1 failures")},
        [],
        ["(stopping after 1 failures)"],
    ),
    "not collected": (BOTH, {"finished": SessionFinished(exit_code=2)}, [], ["(exit code 2)"]),
}


@pytest.mark.parametrize(("tests", "more", "options", "words"), CLOSED.values(), ids=CLOSED)
def test_it_stays_closed(
    tmp_path: Path, tests: list[Ran], more: dict[str, object], options: list[str], words: list[str]
) -> None:
    _, path = make_job(tmp_path / "job", tests, **more)
    code, lines = gate(path, *options)
    assert code == 1
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        assert line.startswith("closed: ") and word in line


def test_other_tests_may_fail(tmp_path: Path) -> None:
    _, path = make_job(tmp_path / "job", [*BOTH, Ran(hw_id="HW-X-001", outcome="failed", kind="product")])
    assert gate(path)[0] == 0
    assert gate(path, require=("HW-BOOT-001", "HW-X-001"))[0] == 1


def test_virtual_boards_count_where_they_are_allowed(tmp_path: Path) -> None:
    _, path = make_job(tmp_path / "job", BOTH, virtual=["hut-01", "hut-02"])
    assert gate(path)[0] == 1
    assert gate(path, "--allow-virtual")[0] == 0


def _edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        [path] = folder.glob(name)
        path.write_text(change(path.read_text()))

    return do


def _forge_report(folder: Path) -> None:
    [path] = folder.glob("*_report_*.json")
    report = read_report(path)
    for test in report.tests:
        test.outcome, test.kind = "passed", None
    write_report(report, path)


def _forge_slot(folder: Path) -> None:
    [path] = folder.glob("*_report_*.json")
    report = read_report(path)
    for slot in report.slots:
        slot.virtual = False
    write_report(report, path)


def _add_journal(folder: Path) -> None:
    shutil.copy(folder / "session.jsonl", folder / "hut-01" / "events_more.jsonl")


def _forget_seal(folder: Path) -> None:
    [path] = folder.glob("*_report_*.json")
    data = json.loads(path.read_text())
    del data["manifest_sha256"]
    path.write_text(json.dumps(data))


TAMPERED = {
    "evidence changed": (_edit("hut-01/console.log", lambda text: text + "x"), "was changed after the job ended"),
    "evidence gone": (lambda folder: (folder / "hut-01" / "console.log").unlink(), "is missing"),
    "manifest changed": (_edit("MANIFEST.sha256", str.upper), "is not the manifest that the report names"),
    "manifest gone": (lambda folder: (folder / "MANIFEST.sha256").unlink(), "is neither beside"),
    "report names no manifest": (_forget_seal, "names no manifest"),
    "report says passed": (_forge_report, "says something else about HW-BOOT-001 than the journals"),
    "report says real": (_forge_slot, "says something else about HW-BOOT-001 than the journals"),
    "journal added": (_add_journal, "is not in the manifest"),
    "report says other commit": (
        _edit("*_report_*.json", lambda t: t.replace(COMMIT, OTHER_COMMIT)),
        "has evidence of",
    ),
    "report is broken": (_edit("*_report_*.json", lambda text: text.replace('"failed"', '"bad"', 1)), '"bad"'),
    "report is no JSON": (_edit("*_report_*.json", lambda text: text[:100]), "not valid JSON"),
}


@pytest.mark.parametrize(("tamper", "word"), TAMPERED.values(), ids=TAMPERED)
def test_it_notices_what_was_tampered_with(tmp_path: Path, tamper: Callable[[Path], None], word: str) -> None:
    tests = [Ran(), Ran(slot="hut-02", outcome="failed", kind="product")]
    _, path = make_job(tmp_path / "job", tests, virtual=["hut-01"])
    tamper(tmp_path / "job")
    code, lines = gate(path, "--allow-virtual")
    assert code == 1
    assert any(word in line for line in lines), lines


@pytest.mark.parametrize(
    "journal",
    ["", "no json\n", '{"event": "SessionStarted"}\n', "[]\n", '{"event": "SessionFinished", "exit_code": 0}\n'],
    ids=["empty", "garbage", "incomplete", "list", "no start"],
)
def test_evidence_that_proves_nothing_is_told_in_a_sentence(tmp_path: Path, journal: str) -> None:
    report, path = make_job(tmp_path / "job", BOTH)
    (tmp_path / "job" / "session.jsonl").write_text(journal)
    report.manifest_sha256 = write_manifest(tmp_path / "job", frozenset({path.name}))
    write_report(report, path)
    code, lines = gate(path)
    assert code == 1
    assert "does not say how the session began" in lines[0]


@pytest.mark.parametrize(
    "line",
    [
        {"event": "TestFinished", "node_id": 1, "hw_id": [], "outcome": "?", "kind": 0, "duration_s": "x"},
        {"event": "PowerCycled", "utc": 5, "status": 1, "entity": 1, "off_s": 1, "on_s": 1, "attempts": 1}
        | {"seconds": 1, "reason": 1},
        {"event": "TestFinished", "utc": 5, "node_id": "", "hw_id": "", "outcome": "", "kind": "", "duration_s": None},
    ],
)
def test_a_damaged_journal_is_told_in_a_sentence(tmp_path: Path, line: dict[str, object]) -> None:
    report, path = make_job(tmp_path / "job", BOTH)
    for name in ("session.jsonl", "hut-01/events_main.jsonl"):
        with (tmp_path / "job" / name).open("a") as file:
            file.write(json.dumps(line) + "\n")
    report.manifest_sha256 = write_manifest(tmp_path / "job", frozenset({path.name}))
    write_report(report, path)
    code, lines = gate(path)
    assert code == 1
    assert any("are damaged" in text for text in lines), lines


MISTAKES = {
    "no id": (["gate", "r.json"], "--require"),
    "short commit": (["gate", "r.json", "--require", "X", "--commit", COMMIT[:12]], "full SHA"),
    "a name for a commit": (["gate", "r.json", "--require", "X", "--commit", "HEAD"], "full SHA"),
    "empty id": (["gate", "r.json", "--require", " "], "empty"),
}


@pytest.mark.parametrize(("arguments", "word"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_line(arguments: list[str], word: str) -> None:
    code, said = hut_here(*arguments)
    assert (code, said.count("\n")) == (2, 1)
    assert word in said


def test_no_report_keeps_it_closed(tmp_path: Path) -> None:
    code, lines = gate(tmp_path / "none.json")
    assert (code, len(lines)) == (1, 1)
    assert "cannot be read" in lines[0]


def test_a_whole_session_on_virtual_boards(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(HW_BOOT_001.read_text())
    commit = commit_all(lab.folder)
    session = lab.run()
    assert session.exit_code == 0, session.output
    [path] = lab.folder.glob("build/hut/*/*_report_*.json")

    assert gate(path, "--allow-virtual", "--commit", commit) == (
        0,
        [f"open: HW-BOOT-001 passed, as {path} and its evidence say"],
    )
    code, lines = gate(path, "--commit", commit)
    assert code == 1
    assert len(lines) == 1 and "virtual board" in lines[0]
