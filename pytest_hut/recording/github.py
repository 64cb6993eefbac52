"""What GitHub Actions shows of a session: a summary on the run's page, and an annotation for every failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_hut.contracts.report import Report
from pytest_hut.recording.report import FAILURES


def append_step_summary(report: Report, path: Path) -> None:
    """Append the report as Markdown to the file that GITHUB_STEP_SUMMARY names."""
    lines = [
        f"## {report.status}: {_cell(report.human_summary)}",
        "",
        f"job `{report.job_id}`, commit `{report.commit_sha}`, lane `{report.lane}`",
        "",
        "| slot | chip | firmware | flashes | boots | power cycles | recovered |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for slot in report.slots:
        firmware = slot.firmware.app_version or slot.firmware.content_sha256[:12] if slot.firmware else ""
        flashes = f"{sum(flash.written for flash in slot.flashes)} of {len(slot.flashes)} written"
        name = f"{slot.slot} (virtual)" if slot.virtual else slot.slot
        lines.append(
            f"| {name} | {slot.chip or ''} | {_cell(firmware)} | {flashes} | {slot.boots} | {slot.power_cycles} "
            f"| {len(slot.recovery_events)} |"
        )
    lines += ["", "| test | slot | outcome | whose | seconds | |", "| --- | --- | --- | --- | --- | --- |"]
    for test in report.tests:
        name = f"{test.hw_id} " if test.hw_id else ""
        lines.append(
            f"| {name}`{_cell(test.node_id)}` | {test.slot or ''} | {test.outcome} | {test.kind or ''} "
            f"| {test.duration_sec:.1f} | {_cell(test.message)} |"
        )
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write("\n".join([*lines, "", f"Next: {_cell(report.next_action or '')}", ""]))


def failure_annotations(report: Report) -> Iterator[str]:
    """Yield one workflow command for every failed test; trouble of the bench is a warning, not an error."""
    for test in report.tests:
        if test.outcome not in FAILURES:
            continue
        file = test.node_id.partition("::")[0]
        level, whose = ("warning", "infrastructure") if test.kind == "infrastructure" else ("error", "product")
        title = f"{test.hw_id or test.node_id}{f' on {test.slot}' if test.slot else ''} ({whose})"
        yield f"::{level} file={_property(file)},title={_property(title)}::{_data(test.message or test.outcome)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("\r", "")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
