"""The ws2 report of a session, as a function of the journals in its folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pytest_hut.contracts.report import (
    Executor,
    FirmwareRecord,
    FlashRecord,
    PowerCycleRecord,
    RecoveryRecord,
    Report,
    SlotRecord,
    TestRecord,
    dump_report,
)
from pytest_hut.events import types as ev
from pytest_hut.events.journal import read_journal
from pytest_hut.recording.job import SESSION_JOURNAL, Job

FAILURES = ("failed", "error", "crashed")

SHOWN_RUNNING = 3
"""So many tests are named that were under way when a session ended early."""

STATUS_OF_CAUSE = {"interrupt": "cancelled", "cancel": "cancelled", "timeout": "timeout"}
"""The status of a session that did not end by itself."""


def build_report(job: Job) -> Report:
    """Read every journal of the job and say what happened.

    Works on what is there: a session that was killed has no `SessionFinished`, and its report says so.
    """
    session = list(read_journal(job.path / SESSION_JOURNAL))
    started = next((event for event in session if isinstance(event, ev.SessionStarted)), None)
    finished = next((event for event in session if isinstance(event, ev.SessionFinished)), None)
    slot_events = {
        folder.name: [event for path in sorted(folder.glob("events_*.jsonl")) for event in read_journal(path)]
        for folder in sorted(job.path.iterdir())
        if folder.is_dir()
    }
    names = started.slots if started else sorted(slot_events)
    of_session = [event for event in session if isinstance(event, (ev.SlotQuarantined, ev.TestMoved))]
    slots = [
        _slot_record(name, [*slot_events.get(name, ()), *(event for event in of_session if event.slot == name)])
        for name in names
    ]
    tests = [_test_record(event) for event in session if isinstance(event, ev.TestFinished)]
    times = [event.utc for events in (session, *slot_events.values()) for event in events] or [ev.utc_now()]
    start, end = min(times), max(times)
    if finished is None:
        status, exit_code = "failed", -1
    else:
        exit_code = finished.exit_code
        status = STATUS_OF_CAUSE.get(finished.cause) or ("success" if exit_code == 0 else "failed")
    summary = _summary(tests, _under_way(session), finished)
    return Report(
        schema_version="ws2.report.v1",
        job_id=job.job_id,
        agent_role="runner",
        status=status,  # type: ignore[arg-type]
        start_utc=_whole_seconds(start),
        end_utc=_whole_seconds(end),
        duration_sec=round(_seconds_between(start, end), 3),
        exit_code=exit_code,
        lock_key=started.lock_key if started else "none",
        human_summary=summary,
        executor=Executor(hostname=started.hostname, user=started.user) if started and started.hostname else None,
        commit_sha=job.commit_sha,
        artifact_paths=artifacts_of(job),
        next_action=_next_action(status, tests, slots),
        thread_ref=started.thread_ref if started else None,
        evidence_dir=shown_path(job.path),
        lane=job.lane,  # type: ignore[arg-type]
        slots=slots,
        tests=tests,
    )


def write_report(report: Report, path: Path) -> None:
    """Write the report so that `path` is at every moment either absent, the old one, or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(dump_report(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def _slot_record(name: str, events: Iterable[ev.Event]) -> SlotRecord:
    record = SlotRecord(slot=name)
    for event in events:
        match event:
            case ev.SlotLeased():
                record.port, record.chip, record.virtual = event.port, event.chip, event.virtual
                record.lock = event.lock
                record.lock_waited_sec = round(record.lock_waited_sec + event.waited_s, 3)
            case ev.BoardIdentified():
                record.chip, record.mac = event.chip, event.mac
            case ev.FlashFinished():
                record.firmware = FirmwareRecord(
                    source=event.firmware,
                    content_sha256=event.content_sha256,
                    app_version=event.app_version,
                    elf_sha256=event.elf_sha256,
                    commit=event.commit,
                )
                record.flashes.append(FlashRecord.model_validate(_known(event, FlashRecord)))
            case ev.FlashFailed():
                record.failed_flash_attempts += 1
            case ev.Booted():
                record.boots += 1
            case ev.FirmwareCrashed():
                record.crashes += 1
            case ev.PowerCycled():
                record.power_cycles += 1
                record.power_cycle_results.append(PowerCycleRecord.model_validate(_known(event, PowerCycleRecord)))
            case ev.Recovered():
                record.recovery_events.append(RecoveryRecord.model_validate(_known(event, RecoveryRecord)))
            case ev.TestMoved():
                reason = f"{event.node_id}: {event.reason}"
                record.recovery_events.append(
                    RecoveryRecord(utc=event.utc, what="test tried on another slot", reason=reason)
                )
            case ev.SlotQuarantined():
                record.quarantined = f"{event.reason}; until {event.until}"
    return record


def _known(event: ev.Event, model: type[FlashRecord | PowerCycleRecord | RecoveryRecord]) -> dict[str, object]:
    return {key: value for key, value in asdict(event).items() if key in model.model_fields}


def _test_record(event: ev.TestFinished) -> TestRecord:
    return TestRecord(
        node_id=event.node_id,
        hw_id=event.hw_id,
        slot=event.slot or None,
        outcome=event.outcome,  # type: ignore[arg-type]
        kind=event.kind,  # type: ignore[arg-type]
        duration_sec=round(event.duration_s, 3),
        message=event.message,
        evidence=event.evidence,
    )


def _under_way(session: Iterable[ev.Event]) -> list[str]:
    """Return the tests that had begun and not ended."""
    running: dict[str, None] = {}
    for event in session:
        match event:
            case ev.TestStarted():
                running[event.node_id] = None
            case ev.TestFinished():
                running.pop(event.node_id, None)
    return list(running)


def _summary(tests: list[TestRecord], running: list[str], finished: ev.SessionFinished | None) -> str:
    counts: Counter[str] = Counter(test.outcome for test in tests)
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", *FAILURES, "skipped") if counts[outcome])
    words = words or ("no test ended" if running else "no test ran")
    if running and (finished is None or finished.cause):
        more = f" and {len(running) - SHOWN_RUNNING} more" if len(running) > SHOWN_RUNNING else ""
        words += f", while {', '.join(running[:SHOWN_RUNNING])}{more} ran"
    bad = [test for test in tests if test.outcome in FAILURES]
    if bad:
        first = bad[0]
        where = f" on {first.slot}" if first.slot else ""
        whose = " (infrastructure)" if first.kind == "infrastructure" else ""
        words += f"{where}: {first.hw_id or first.node_id}{whose}: {first.message}"
    if finished is None:
        return f"The session was killed before it could finish; until then: {words}"
    if finished.cause:
        return f"Ended early ({finished.reason or finished.cause}): {words}"
    if finished.reason and not bad:
        return f"{words}; {finished.reason}"
    return words


def _next_action(status: str, tests: list[TestRecord], slots: list[SlotRecord]) -> str:
    for slot in slots:
        for cycle in slot.power_cycle_results[-1:]:
            if cycle.status != "ok":
                return f"Look at the relay of {slot.slot}: {cycle.reason}"
    for slot in slots:
        if slot.quarantined:
            return f"Look at {slot.slot}, which was put in quarantine: {slot.quarantined}"
    kinds = {test.kind for test in tests if test.outcome in FAILURES}
    if "infrastructure" in kinds:
        return "Look at the bench first (port, relay, cabling), then run again: the firmware was not judged."
    if "product" in kinds:
        return "Read the console log of the failed test; the firmware misbehaved."
    if status == "timeout":
        return "Give the session more time with --hut-timeout, or fewer tests; the boards are free."
    if status == "cancelled":
        return "Run again when it suits; the boards are free."
    if status == "success":
        return "Nothing to do."
    return "Read the session's output; it ended without a verdict."


def artifacts_of(job: Job) -> list[str]:
    """Return all files of the job, relative to the current folder where they lie below it."""
    files = sorted(path for path in job.path.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [shown_path(path) for path in files]


def shown_path(path: Path) -> str:
    """Return a path as people type it: relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _whole_seconds(utc: str) -> str:
    return utc[:19] + "Z"


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
