"""One report out of several, e.g. of jobs that ran at the same time on one slot each."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_hut.contracts.guardrails import JOB_ID_PATTERN
from pytest_hut.contracts.report import MergedJob, Report, SlotRecord, read_report
from pytest_hut.errors import ConfigError
from pytest_hut.recording.evidence import evidence_folder
from pytest_hut.recording.report import FAILURES, shown_path

WORST_FIRST = ("failed", "timeout", "cancelled", "success")

_IN_THE_WHOLE = frozenset({"slots", "tests", "artifact_paths", "merged_from"})
"""What of a part is found in the merged report itself; the rest is kept under `merged_from`."""

Parts = list[tuple[Path, Report]]


def merge_reports(paths: list[Path]) -> Report:
    """Read reports and return one that says what they all say: worst status, sums, all tests, slots and artifacts.

    What each of them said about its job as a whole, and where its evidence is, stands under `merged_from`.

    Raises:
        ConfigError: one of them is no valid report, two are the same, or they are not of one commit, role and lane.
    """
    parts = [(path, read_report(path)) for path in paths]
    _refuse_twice(parts)
    reports = [report for _, report in parts]
    worst = min(reports, key=lambda report: WORST_FIRST.index(report.status))
    start = min(reports, key=lambda report: datetime.fromisoformat(report.start_utc)).start_utc
    end = max(reports, key=lambda report: datetime.fromisoformat(report.end_utc)).end_utc
    executors = {report.executor.model_dump_json(): report.executor for report in reports if report.executor}
    thread_refs = _distinct(report.thread_ref for report in reports)
    return Report(
        schema_version="ws2.report.v1",
        job_id=_job_id([report.job_id for report in reports]),
        agent_role=_one_of(parts, "agent_role"),
        status=worst.status,
        start_utc=start,
        end_utc=end,
        duration_sec=round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3),
        exit_code=worst.exit_code,
        lock_key="+".join(_distinct(report.lock_key for report in reports)),
        human_summary=_summary(reports, worst),
        executor=next(iter(executors.values())) if len(executors) == 1 else None,
        commit_sha=_one_of(parts, "commit_sha"),
        artifact_paths=_distinct(path for report in reports for path in report.artifact_paths),
        next_action=worst.next_action,
        thread_ref=thread_refs[0] if len(thread_refs) == 1 else None,
        lane=_one_of(parts, "lane"),
        slots=_merged_slots(reports),
        tests=[test for report in reports for test in report.tests],
        merged_from=[job for path, report in parts for job in _jobs_of(path, report)],
    )


def _refuse_twice(parts: Parts) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for path, report in parts:
        jobs: list[Report | MergedJob] = [*report.merged_from] or [report]
        for job in jobs:
            identity = (job.job_id, job.manifest_sha256 or str(getattr(job, "start_utc", "")))
            if identity in seen:
                raise ConfigError(f"{seen[identity]} and {path} tell of the same run of job {job.job_id}; give it once")
            seen[identity] = path


def _one_of(parts: Parts, key: str) -> Any:
    """Return the one value that all reports have under `key`. Raises ConfigError when they differ."""
    first_path, first = parts[0]
    value = getattr(first, key)
    for path, report in parts[1:]:
        other = getattr(report, key)
        if other != value:
            raise ConfigError(
                f"{first_path} has {key} = {value or 'none'}, and {path} has {other or 'none'}; only reports with the "
                "same can be merged"
            )
    return value


def _jobs_of(path: Path, report: Report) -> list[MergedJob]:
    if report.merged_from:
        return report.merged_from
    data = report.model_dump(mode="json", exclude=set(_IN_THE_WHOLE))
    if report.manifest_sha256:
        folder = evidence_folder(path, report.evidence_dir, report.manifest_sha256)
        data["evidence_dir"] = shown_path(folder.resolve()) if folder else report.evidence_dir
    return [MergedJob.model_validate({**data, "report": str(path)})]


def _job_id(job_ids: list[str]) -> str:
    first, *more = _distinct(job_ids)
    if not more:
        return first
    joined = "+".join([first, *more]).replace("+", "_and_")
    return joined if JOB_ID_PATTERN.fullmatch(joined) else f"{first[:80]}_and_{len(more)}_more"


def _merged_slots(reports: list[Report]) -> list[SlotRecord]:
    """Return one record for each board: two jobs in a row on one slot make one record, unless its board was changed."""
    merged: dict[tuple[object, ...], SlotRecord] = {}
    for report in sorted(reports, key=lambda report: datetime.fromisoformat(report.start_utc)):
        for slot in report.slots:
            identity = (slot.slot, slot.virtual, slot.port, slot.mac, slot.chip)
            earlier = merged.get(identity)
            merged[identity] = slot.model_copy(deep=True) if earlier is None else _added(earlier, slot)
    return sorted(merged.values(), key=lambda slot: slot.slot)


def _added(earlier: SlotRecord, later: SlotRecord) -> SlotRecord:
    return later.model_copy(
        update={
            **{
                key: value for key, value in (earlier.model_extra or {}).items() if key not in (later.model_extra or {})
            },
            "lock_waited_sec": round(earlier.lock_waited_sec + later.lock_waited_sec, 3),
            "firmware": later.firmware or earlier.firmware,
            "flashes": earlier.flashes + later.flashes,
            "failed_flash_attempts": earlier.failed_flash_attempts + later.failed_flash_attempts,
            "boots": earlier.boots + later.boots,
            "crashes": earlier.crashes + later.crashes,
            "power_cycles": earlier.power_cycles + later.power_cycles,
            "power_cycle_results": earlier.power_cycle_results + later.power_cycle_results,
            "recovery_events": earlier.recovery_events + later.recovery_events,
        }
    )


def _summary(reports: list[Report], worst: Report) -> str:
    counts: Counter[str] = Counter(test.outcome for report in reports for test in report.tests)
    outcomes = ("passed", *FAILURES, "skipped", "xfailed", "xpassed")
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in outcomes if counts[outcome]) or "no test ran"
    text = f"{len(reports)} {'reports' if len(reports) > 1 else 'report'}: {words}"
    return text if worst.status == "success" else f"{text}; {worst.job_id} ({worst.status}): {worst.human_summary}"


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(value for value in values if value is not None))
