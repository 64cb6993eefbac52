"""A report as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_hut.contracts.report import Report, SlotRecord, TestRecord
from pytest_hut.recording.report import FAILURES

SHOWN_DIGITS = 12
"""Of a long hash."""


def report_text(report: Report) -> str:
    """Return lines: what came of it, where, on which slots, each test, and what to do next."""
    lines = [f"{report.status}: {report.human_summary}", ""]
    lines += [f"{name + ':':10}{text}" for name, text in _facts(report) if text]
    if report.slots:
        lines += ["", "slots"]
        lines += [line for slot in report.slots for line in _slot_lines(slot)]
    if report.tests:
        lines += ["", "tests"]
        lines += [line for test in report.tests for line in _test_lines(test)]
    if report.steps:
        lines += ["", "steps"]
        for step in report.steps:
            command = step.command if isinstance(step.command, str) else " ".join(step.command)
            code = "" if step.exit_code is None else f", exit code {step.exit_code}"
            lines.append(f"  {step.number}. {step.status} {command} ({step.duration_sec:.1f} s{code})")
            lines += [f"      {step.problem}"] if step.problem else []
    lines += ["", f"next: {report.next_action or 'nothing is said'}"]
    return "".join(f"{_printable(line)}\n" for line in lines)


def _facts(report: Report) -> Iterator[tuple[str, str | None]]:
    yield "job", f"{report.job_id} ({report.agent_role})"
    yield "thread", report.thread_ref
    yield "commit", report.commit_sha
    yield "lane", report.lane
    yield "lock key", report.lock_key
    yield "time", f"{report.start_utc} to {report.end_utc}, {report.duration_sec:.1f} s, exit code {report.exit_code}"
    yield "by", f"{report.executor.user} on {report.executor.hostname}" if report.executor else None
    yield "evidence", report.evidence_dir
    for job in report.merged_from:
        yield "merged", f"{job.job_id}: {job.status}, {job.report}"


def _slot_lines(slot: SlotRecord) -> Iterator[str]:
    kind = "virtual" if slot.virtual else slot.port or "not used"
    yield f"  {slot.slot} ({kind}) {' '.join(word for word in (slot.chip, slot.mac) if word)}"
    if slot.firmware is not None:
        firmware = slot.firmware
        elf = (firmware.elf_sha256 or "unknown")[:SHOWN_DIGITS]
        content = firmware.content_sha256[:SHOWN_DIGITS]
        yield f"      firmware {firmware.source} {firmware.app_version or ''} (content {content}, ELF {elf})"
    written = sum(flash.written for flash in slot.flashes)
    seconds = sum(flash.seconds for flash in slot.flashes)
    yield (
        f"      {_count(len(slot.flashes), 'flash', 'flashes')} ({written} written, {seconds:.1f} s), "
        f"{_count(slot.boots, 'boot', 'boots')}, {_count(slot.crashes, 'crash', 'crashes')}, "
        f"{_count(slot.power_cycles, 'power cycle', 'power cycles')}"
    )
    for cycle in slot.power_cycle_results:
        if cycle.status != "ok":
            yield f"      power cycle {cycle.utc}: {cycle.status}: {cycle.reason}"
    for event in slot.recovery_events:
        yield f"      recovered {event.utc}: {event.what} ({event.reason})"


def _test_lines(test: TestRecord) -> Iterator[str]:
    whose = f" ({test.kind})" if test.kind else ""
    names = " ".join(word for word in (test.hw_id, test.slot) if word)
    yield f"  {test.outcome}{whose}  {f'{names}  ' if names else ''}{test.node_id}  {test.duration_sec:.1f} s"
    if test.message:
        yield f"      {test.message}"
    if test.outcome in FAILURES:
        yield from (f"      {path}" for path in test.evidence)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _printable(text: str) -> str:
    """Return one line that cannot do anything to a terminal: a report quotes what boards print."""
    return "".join(character if character.isprintable() else " " for character in text).rstrip()
