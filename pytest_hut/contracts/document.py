"""What the two documents have in common: strict types, UTC times, and reading a file that may be anything.

Types are taken at their word (no `"2"` for a number, no `true` for 1); what is not known is kept.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from pytest_hut.errors import ConfigError

UTC_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")

SHOWN_MISTAKES = 50
"""So many of the mistakes in one document are told."""

SHOWN_VALUE = 60
"""Characters of a bad value that an error message shows."""


class DocumentError(ConfigError):
    """A document breaks its contract; the text is the first of `mistakes`."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(mistakes[0])
        self.mistakes = mistakes
        """One sentence each, which names file, key and value."""


class Part(BaseModel):
    """Keeps what it does not know."""

    model_config = ConfigDict(extra="allow", strict=True)


def check_utc(value: str) -> str:
    """Return `value` if it is a UTC time of the agreed form that exists, else raise ValueError."""
    if not UTC_PATTERN.fullmatch(value):
        raise ValueError("should be a UTC time such as 2026-02-12T15:30:10Z")
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"there is no such time ({error})") from None
    return value


def check_number(value: object) -> float:
    """Return `value`, an integer as an integer, if it is a finite number from 0 on, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError("should be a number, 0 or more")
    return value


UtcTime = Annotated[
    str,
    AfterValidator(check_utc),
    Field(json_schema_extra={"pattern": f"^{UTC_PATTERN.pattern}$", "format": "date-time"}),
]
Seconds = Annotated[int | float, PlainValidator(check_number), WithJsonSchema({"type": "number", "minimum": 0})]
Name = Annotated[str, Field(min_length=1)]

Document = TypeVar("Document", bound=Part)


def read_document(path: Path, model: type[Document], limit_bytes: int, missing: Mapping[str, str]) -> Document:
    """Read and check a JSON document.

    Args:
        limit_bytes: a bigger file is refused before it is read.
        missing: for required keys, what to put in where one is missing.

    Raises:
        ConfigError: it cannot be read, is no JSON, or breaks the contract; one sentence that names file, key and value
            and says what would be right.
    """
    text = _read_text(path, limit_bytes)
    try:
        _refuse_ambiguous_json(text)
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[:SHOWN_MISTAKES]
        raise DocumentError([f"{path}: {_mistake(details, missing)}" for details in first]) from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply to be such a document; look at what wrote it") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid JSON ({error}); correct it there") from None


def _read_text(path: Path, limit_bytes: int) -> str:
    try:
        # Not blocking: the name could be that of a FIFO that nobody writes to.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path}: is not a regular file; give the path of a JSON file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(limit_bytes + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a JSON file") from None
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: is no path ({error}); give the path of a JSON file") from None
    if len(data) > limit_bytes:
        raise ConfigError(f"{path}: is larger than {limit_bytes} bytes, more than such a document may have; shorten it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _refuse_ambiguous_json(text: str) -> None:
    """Raise ValueError for what parsers read in different ways: a key given twice, NaN, a number without end."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known = dict(pairs)
        if len(known) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in known if keys.count(key) > 1)
            raise ValueError(f"the key {_shown(twice)} is given twice")
        return known

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number[:SHOWN_VALUE]} is no number that JSON can carry")
        return value

    json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=finite)


def _mistake(mistake: ErrorDetails, missing: Mapping[str, str]) -> str:
    """Say in one sentence what is wrong."""
    key = ".".join(str(part) for part in mistake["loc"])
    what = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if mistake["type"] == "json_invalid":
        return f"is not valid JSON ({what.removeprefix('Invalid JSON: ')}); correct it there"
    if mistake["type"] == "missing":
        return f"{key} is missing; {missing.get(key, 'add it')}"
    if mistake["type"].startswith("model_"):
        what = "should be a JSON object, {...}"
    return f"{key} = {_shown(mistake['input'])}: {what}" if key else what


def _shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}..."
