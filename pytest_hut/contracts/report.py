"""`ws2.report.v1`: what came of a job.

The fields of the contract keep their names and types; what a hardware result says beyond them stands beside them.
Unknown fields are kept, so a report read and written again loses nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pytest_hut.contracts.document import Name, Part, Seconds, UtcTime, read_document

MAXIMUM_BYTES = 64 * 1024 * 1024
"""A larger file is no report."""

Lane = Literal["upstream", "local-hil"]
Status = Literal["success", "failed", "timeout", "cancelled"]
Count = Annotated[int, Field(ge=0)]


class Executor(Part):
    """Where the job ran."""

    hostname: str
    user: str


class FirmwareRecord(Part):
    """What was on the slot's flash, proved."""

    source: str
    content_sha256: str
    app_version: str | None
    elf_sha256: str | None
    commit: str | None = None
    """The git commit it is known to be built from."""


class FlashRecord(Part):
    """One flash, or the proof that none was needed."""

    utc: UtcTime
    written: bool
    proof: str
    bytes_written: Count
    seconds: Seconds
    attempts: Count
    image_bytes: Count = 0
    bytes_saved: Count = 0
    bytes_sent: Count = 0
    baud: Count = 0
    plan: str = ""


class PowerCycleRecord(Part):
    """One power cycle and its structured result."""

    utc: UtcTime
    status: Literal["ok", "timeout", "ha_error"]
    entity: str
    off_s: Seconds
    on_s: Seconds
    attempts: Count
    seconds: Seconds
    reason: str = ""


class RecoveryRecord(Part):
    """Something that was put right without a person."""

    utc: UtcTime
    what: str
    reason: str


class SlotRecord(Part):
    """What happened to one slot."""

    slot: str
    chip: str | None = None
    mac: str | None = None
    port: str | None = None
    virtual: bool = False
    lock: str | None = None
    lock_waited_sec: Seconds = 0.0
    firmware: FirmwareRecord | None = None
    flashes: list[FlashRecord] = Field(default_factory=list)
    failed_flash_attempts: Count = 0
    boots: Count = 0
    crashes: Count = 0
    power_cycles: Count = 0
    power_cycle_results: list[PowerCycleRecord] = Field(default_factory=list)
    recovery_events: list[RecoveryRecord] = Field(default_factory=list)
    quarantined: str | None = None
    """Why the session stopped using the slot, and until when; None where it did not."""


class TestRecord(Part):
    """What came of one test."""

    __test__: ClassVar[bool] = False  # No test class, whatever pytest thinks of its name.

    node_id: str
    hw_id: str | None = None
    slot: str | None = None
    outcome: Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed"]
    kind: Literal["product", "infrastructure"] | None = None
    duration_sec: Seconds
    message: str = ""
    evidence: list[str] = Field(default_factory=list)


class StepRecord(Part):
    """What came of one step of a job that was started."""

    number: Annotated[int, Field(ge=1)]
    command: str | list[str]
    status: Status
    exit_code: int | None
    """As a shell tells it: 128 + n after signal n, 126 or 127 for a program that cannot be run; None if unknown."""
    start_utc: UtcTime
    duration_sec: Seconds
    output: str
    output_bytes: Count
    output_sha256: str
    problem: str = ""
    ended_processes: list[str] = Field(default_factory=list)
    """Programs that the step left running, or that were running when it had to end, and were ended."""


class ArtifactRecord(Part):
    """What became of one expected artifact."""

    path: str
    found: bool
    size: Count | None = None
    sha256: str | None = None
    older_than_job: bool = False
    """It was there before the job began, and the job did not write it."""
    problem: str = ""


class MergedJob(Part):
    """One of the reports that a merged report was made of; what else that one said is kept here as it was."""

    report: str
    """Path of the report."""
    job_id: Name
    status: Status
    exit_code: int
    human_summary: Name
    evidence_dir: str | None = None
    manifest_sha256: str | None = None


class Report(Part):
    """A `ws2.report.v1` document."""

    schema_version: Literal["ws2.report.v1"]
    job_id: Name
    agent_role: Literal["arch", "infra", "runner"]
    status: Status
    start_utc: UtcTime
    end_utc: UtcTime
    duration_sec: Seconds
    exit_code: int
    lock_key: Name
    human_summary: Name
    executor: Executor | None = None
    commit_sha: str | None = None
    artifact_paths: list[str] = Field(default_factory=list)
    next_action: str | None = None
    thread_ref: str | None = None
    evidence_dir: str | None = None
    manifest_sha256: str | None = None
    lane: Lane | None = None
    slots: list[SlotRecord] = Field(default_factory=list)
    tests: list[TestRecord] = Field(default_factory=list)
    requested_by: str | None = None
    request_utc: UtcTime | None = None
    requested_commit_sha: str | None = None
    timeout_sec: Seconds | None = None
    lock_waited_sec: Seconds | None = None
    workdir: str | None = None
    steps: list[StepRecord] = Field(default_factory=list)
    expected_artifacts: list[ArtifactRecord] = Field(default_factory=list)
    merged_from: list[MergedJob] = Field(default_factory=list)


def read_report(path: Path) -> Report:
    """Read and check a report.

    Raises:
        ConfigError: it cannot be read, is no JSON, or breaks the contract; one sentence that names file, key and value
            and says what would be right.
    """
    return read_document(path, Report, MAXIMUM_BYTES, {"schema_version": 'it has to be "ws2.report.v1"'})


def dump_report(report: Report) -> dict[str, Any]:
    """Return the report as a JSON-ready mapping; what was never said of it is left out."""
    unsaid = {name for name in Report.model_fields.keys() - report.model_fields_set if not getattr(report, name)}
    return report.model_dump(mode="json", exclude=unsaid)
