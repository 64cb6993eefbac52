"""Whether a report proves that tests passed: on this commit, on real boards, and with its evidence as it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_hut.contracts.report import MergedJob, Report, TestRecord, read_report
from pytest_hut.errors import ConfigError
from pytest_hut.events.journal import read_journal
from pytest_hut.events.types import SessionFinished
from pytest_hut.recording.evidence import evidence_folder
from pytest_hut.recording.job import SESSION_JOURNAL
from pytest_hut.recording.manifest import MANIFEST_NAME, check_manifest
from pytest_hut.recording.rebuild import report_from_journals

FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

RAN_TO_THE_END = (0, 1, 10)
"""Exit codes of a session that ran all its tests: all passed, some failed, some failed because of the bench."""


def check_commit(commit: str) -> str:
    """Return `commit` if it is a full SHA, else raise ValueError: what is not names no one commit for ever."""
    if not FULL_SHA.fullmatch(commit):
        raise ValueError("give the full SHA, 40 (or 64) digits of 0-9 and a-f, as `git rev-parse HEAD` prints it")
    return commit


def reasons_to_stay_closed(path: Path, required: list[str], commit: str | None, *, allow_virtual: bool) -> list[str]:
    """Return why a report does not prove that the required tests passed, one sentence each; empty when it does.

    Every occurrence of a required id counts, and there has to be one. The report alone proves nothing: what it says
    about these tests has to be what the journals in its evidence say, and these have to be what the manifest says.

    Args:
        path: of the report.
        required: HW ids, such as `HW-BOOT-001`.
        commit: the full SHA that was tested; None for any, as long as the report names one.
    """
    try:
        report = read_report(path)
    except ConfigError as error:
        return [str(error)]
    reasons = list(_about_commit(path, report.commit_sha, commit))
    told: list[Report] = []
    jobs: list[Report | MergedJob] = [*report.merged_from] or [report]
    for job in jobs:
        folder = _folder_of(path, job)
        if isinstance(folder, str):
            reasons.append(folder)
            continue
        wrong = _about_evidence(folder, job.manifest_sha256 or "")
        reasons += wrong
        if wrong:
            continue
        try:
            told.append(report_from_journals(folder))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        reasons += _about_the_end(folder)
        if told[-1].commit_sha != report.commit_sha:
            reasons.append(f"{folder} has evidence of commit {told[-1].commit_sha}, not of {report.commit_sha}")
    for hw_id in dict.fromkeys(required):
        reasons += _about_test(hw_id, [report], allow_virtual=allow_virtual)
        if len(told) == len(jobs) and _essence(hw_id, [report]) != _essence(hw_id, told):
            reasons.append(f"{path} says something else about {hw_id} than the journals of its sessions do")
    return reasons


def _about_commit(path: Path, tested: str | None, wanted: str | None) -> Iterator[str]:
    if not FULL_SHA.fullmatch(tested or ""):
        yield f"{path} is of no commit (commit_sha is {tested or 'missing'}), so nobody can tell what was tested"
    elif wanted is not None and tested != wanted:
        yield f"{path} is of commit {tested}, not of {wanted}"


def _folder_of(path: Path, job: Report | MergedJob) -> Path | str:
    """Return the folder with the evidence of a job, or what is wrong."""
    if job.manifest_sha256 is None:
        return f"{path} names no manifest for job {job.job_id}, so nothing shows that its evidence is as it was"
    folder = evidence_folder(path, job.evidence_dir, job.manifest_sha256)
    if folder is None:
        return (
            f"the evidence of job {job.job_id} is neither beside {path} nor in {job.evidence_dir or 'a named folder'}"
        )
    return folder


def _about_evidence(folder: Path, manifest_sha256: str) -> list[str]:
    wrong = check_manifest(folder, manifest_sha256)
    if wrong:
        return wrong
    manifest = (folder / MANIFEST_NAME).read_text(encoding="utf-8", errors="replace")
    sealed = {line.partition("  ")[2] for line in manifest.splitlines()}
    journals = [folder / SESSION_JOURNAL, *sorted(folder.glob("*/events_*.jsonl"))]
    return [f"{path} is not in the manifest" for path in journals if str(path.relative_to(folder)) not in sealed]


def _about_the_end(folder: Path) -> Iterator[str]:
    """A session that was cut short may not have come to another occurrence, which would have failed."""
    events = read_journal(folder / SESSION_JOURNAL)
    finished = next((event for event in events if isinstance(event, SessionFinished)), None)
    if finished is None:
        yield f"the session in {folder} was killed before it had run all its tests"
    elif finished.cause or finished.reason or finished.exit_code not in RAN_TO_THE_END:
        why = finished.reason or finished.cause or f"exit code {finished.exit_code}"
        yield f"the session in {folder} ended before it had run all its tests ({why})"


def _about_test(hw_id: str, reports: Iterable[Report], *, allow_virtual: bool) -> Iterator[str]:
    none_yet = True
    for report in reports:
        for test in report.tests:
            if test.hw_id != hw_id:
                continue
            none_yet = False
            name = f"{hw_id} ({test.node_id}){f' on {test.slot}' if test.slot else ''}"
            if test.outcome != "passed":
                whose = f" ({test.kind})" if test.kind else ""
                yield f"{name} did not pass: {test.outcome}{whose}{f': {test.message}' if test.message else ''}"
            kind = _kind_of_slot(test, report)
            if kind is None:
                yield f"{name} ran on no slot that the report shows to have been held"
            elif kind == "virtual" and not allow_virtual:
                yield f"{name} ran on a virtual board, which proves nothing about a real one"
    if none_yet:
        yield f"{hw_id} was not run"


def _kind_of_slot(test: TestRecord, report: Report) -> str | None:
    """Return `real` or `virtual`; None when no such slot was held."""
    held = [slot for slot in report.slots if slot.slot == test.slot and slot.port is not None]
    if not held:
        return None
    return "virtual" if any(slot.virtual for slot in held) else "real"


def _essence(hw_id: str, reports: list[Report]) -> Counter[tuple[str, str | None, str, str | None]]:
    """Return what reports say about a test as far as the gate looks at it, in no order."""
    return Counter(
        (test.node_id, test.slot, test.outcome, _kind_of_slot(test, report))
        for report in reports
        for test in report.tests
        if test.hw_id == hw_id
    )
