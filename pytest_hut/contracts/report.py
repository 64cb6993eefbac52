"""`ws2.report.v1`: what came of a job.

The fields of the contract keep their names and types; what a hardware result says beyond them stands beside them.
Unknown fields are kept, so a report read and written again loses nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pytest_hut.errors import ConfigError

UTC_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def _check_utc(value: str) -> str:
    if not UTC_PATTERN.fullmatch(value):
        raise ValueError("a UTC time looks like 2026-02-12T15:30:10Z")
    return value


UtcTime = Annotated[str, AfterValidator(_check_utc)]
Lane = Literal["upstream", "local-hil"]
Status = Literal["success", "failed", "timeout", "cancelled"]


class ReportPart(BaseModel):
    """Keeps what it does not know."""

    model_config = ConfigDict(extra="allow")


class Executor(ReportPart):
    """Where the job ran."""

    hostname: str
    user: str


class FirmwareRecord(ReportPart):
    """What was on the slot's flash, proved."""

    source: str
    content_sha256: str
    app_version: str | None
    elf_sha256: str | None


class FlashRecord(ReportPart):
    """One flash, or the proof that none was needed."""

    utc: UtcTime
    written: bool
    proof: str
    bytes_written: int
    seconds: float
    attempts: int
    image_bytes: int = 0
    bytes_saved: int = 0
    bytes_sent: int = 0
    baud: int = 0
    plan: str = ""


class PowerCycleRecord(ReportPart):
    """One power cycle and its structured result."""

    utc: UtcTime
    status: Literal["ok", "timeout", "ha_error"]
    entity: str
    off_s: float
    on_s: float
    attempts: int
    seconds: float
    reason: str = ""


class RecoveryRecord(ReportPart):
    """Something that was put right without a person."""

    utc: UtcTime
    what: str
    reason: str


class SlotRecord(ReportPart):
    """What happened to one slot."""

    slot: str
    chip: str | None = None
    mac: str | None = None
    port: str | None = None
    virtual: bool = False
    lock: str | None = None
    lock_waited_sec: float = 0.0
    firmware: FirmwareRecord | None = None
    flashes: list[FlashRecord] = []
    failed_flash_attempts: int = 0
    boots: int = 0
    crashes: int = 0
    power_cycles: int = 0
    power_cycle_results: list[PowerCycleRecord] = []
    recovery_events: list[RecoveryRecord] = []


class TestRecord(ReportPart):
    """What came of one test."""

    __test__: ClassVar[bool] = False  # No test class, whatever pytest thinks of its name.

    node_id: str
    hw_id: str | None = None
    slot: str | None = None
    outcome: Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "crashed"]
    kind: Literal["product", "infrastructure"] | None = None
    duration_sec: float
    message: str = ""
    evidence: list[str] = []


class Report(ReportPart):
    """A `ws2.report.v1` document."""

    schema_version: Literal["ws2.report.v1"] = "ws2.report.v1"
    job_id: Annotated[str, Field(min_length=1)]
    agent_role: Literal["arch", "infra", "runner"]
    status: Status
    start_utc: UtcTime
    end_utc: UtcTime
    duration_sec: Annotated[float, Field(ge=0)]
    exit_code: int
    lock_key: Annotated[str, Field(min_length=1)]
    human_summary: Annotated[str, Field(min_length=1)]
    executor: Executor | None = None
    commit_sha: str | None = None
    artifact_paths: list[str] = []
    next_action: str | None = None
    thread_ref: str | None = None
    evidence_dir: str | None = None
    manifest_sha256: str | None = None
    lane: Lane | None = None
    slots: list[SlotRecord] = []
    tests: list[TestRecord] = []


def read_report(path: Path) -> Report:
    """Read and check a report.

    Raises:
        ConfigError: it cannot be read, is no JSON, or breaks the contract; the message names file, key and value.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in mistake["loc"])
        raise ConfigError(
            f"{path}: {f'{key}: ' if key else ''}{mistake['msg'].removeprefix('Value error, ')}"
        ) from None


def dump_report(report: Report) -> dict[str, Any]:
    """Return the report as a JSON-ready mapping."""
    return report.model_dump(mode="json")
