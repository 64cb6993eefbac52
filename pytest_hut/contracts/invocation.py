"""`ws2.invocation.v1`: a job that somebody asks for."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from pytest_hut.contracts.document import Name, Part, UtcTime, check_number, read_document
from pytest_hut.contracts.guardrails import (
    JOB_ID_PATTERN,
    LOCK_KEY_PATTERN,
    TIME_LIMITS,
    check_job_id,
    check_lock_key,
)

MAXIMUM_BYTES = 1024 * 1024
"""A larger file is no invocation."""

MAXIMUM_STEPS = 1000


def split_step(step: str | list[str]) -> list[str]:
    """Return the words of one step, the program first; a string is split as a shell splits words, and no more.

    Raises:
        ValueError: there is no program in it, a quotation is not closed, or a word cannot be given to a program.
    """
    try:
        words = shlex.split(step) if isinstance(step, str) else step
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({str(error).lower()}); quote it as for a shell") from None
    if not words or not words[0]:
        raise ValueError("should begin with a program")
    if any("\0" in word for word in words):
        raise ValueError("should be without NUL characters, which no program can be given")
    return words


def _check_step(step: object) -> object:
    if not isinstance(step, str) and not (isinstance(step, list) and all(isinstance(word, str) for word in step)):
        raise ValueError("should be a string, which is split into words, or a list of words")
    split_step(step)
    return step


def _check_timeout(value: object) -> float:
    if not (number := check_number(value)):
        raise ValueError("should be more than 0 seconds")
    return number


def _check_path(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("should be a path")
    return path


JobId = Annotated[
    str, AfterValidator(check_job_id), Field(json_schema_extra={"pattern": f"^{JOB_ID_PATTERN.pattern}$"})
]
LockKey = Annotated[
    str, AfterValidator(check_lock_key), Field(json_schema_extra={"pattern": f"^{LOCK_KEY_PATTERN.pattern}$"})
]
Step = Annotated[
    str | list[str],
    PlainValidator(_check_step),
    WithJsonSchema(
        {
            "description": "A string, split into words as a shell splits them, or the words.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ],
        }
    ),
]
Timeout = Annotated[
    int | float, PlainValidator(_check_timeout), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]
FilePath = Annotated[str, AfterValidator(_check_path), Field(json_schema_extra={"minLength": 1})]


def _say_the_limits(schema: dict[str, Any]) -> None:
    schema["allOf"] = [
        {
            "if": {"properties": {"target_role": {"const": role}}},
            "then": {"properties": {"timeout_sec": {"maximum": limit.maximum_s}}},
        }
        for role, limit in TIME_LIMITS.items()
    ]


class Invocation(Part):
    """A `ws2.invocation.v1` document."""

    model_config = ConfigDict(json_schema_extra=_say_the_limits)

    schema_version: Literal["ws2.invocation.v1"]
    job_id: JobId
    target_role: Literal["infra", "runner"]
    requested_by: Name
    request_utc: UtcTime
    command: Annotated[list[Step], Field(min_length=1, max_length=MAXIMUM_STEPS)]
    timeout_sec: Timeout
    lock_key: LockKey
    commit_sha: str | None = None
    repo: str | None = None
    workdir: FilePath | None = None
    expected_artifacts: list[FilePath] = Field(default_factory=list)
    notes: str | None = None

    @property
    def steps(self) -> list[list[str]]:
        """The words of each step, in order."""
        return [split_step(step) for step in self.command]

    @model_validator(mode="after")
    def _keep_the_limits(self) -> Invocation:
        limit = TIME_LIMITS[self.target_role]
        if self.timeout_sec > limit.maximum_s:
            raise ValueError(
                f"timeout_sec = {str(self.timeout_sec)[:40]}: a job of the role {self.target_role} has at most "
                f"{limit.maximum_s} s; ask for less, or make several jobs of it"
            )
        return self

    @model_validator(mode="after")
    def _keep_artifacts_inside(self) -> Invocation:
        # By their names only: what the names lead to, past links, is known when the job has run.
        base = os.path.normpath(self.workdir) if self.workdir else "workdir"
        for path in self.expected_artifacts:
            whole = os.path.normpath(Path(base, path))
            if Path(base) not in Path(whole).parents:
                raise ValueError(
                    f"expected_artifacts = {path[:100]!a}: should be the path of a file below workdir, relative to it"
                )
        return self


_MISSING = {
    "schema_version": 'it has to be "ws2.invocation.v1"',
    "target_role": "give infra or runner",
    "request_utc": "give the time of the request in UTC, such as 2026-02-12T15:30:00Z",
    "command": "give a list of steps",
    "timeout_sec": "give seconds; usual are "
    + ", ".join(f"{limit.default_s} for {role} (at most {limit.maximum_s})" for role, limit in TIME_LIMITS.items()),
    "lock_key": "give a name that jobs share which must not run at once",
}


def read_invocation(path: Path) -> Invocation:
    """Read and check an invocation.

    Raises:
        ConfigError: it cannot be read, is no JSON, or breaks the contract; one sentence that names file, key and value
            and says what would be right.
    """
    return read_document(path, Invocation, MAXIMUM_BYTES, _MISSING)
