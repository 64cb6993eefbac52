"""JSON Schema of the two documents, for those who do not speak Python.

`python -m pytest_hut.contracts.schema docs/reference/schemas` writes the files anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pytest_hut.contracts.document import Part
from pytest_hut.contracts.invocation import Invocation
from pytest_hut.contracts.report import Report

MODELS: dict[str, type[Part]] = {"ws2.invocation.v1": Invocation, "ws2.report.v1": Report}


def schema_of(version: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a document, by its `schema_version`.

    It accepts whatever the reader accepts. What it cannot say the reader also refuses: times that do not exist, steps
    that cannot be split into words, artifacts outside the working folder, a key given twice.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{version}.json",
        **MODELS[version].model_json_schema(),
    }


def schema_text(version: str) -> str:
    """Return the content of the schema's file."""
    return json.dumps(schema_of(version), indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write both files into `folder` and return their paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for version in MODELS:
        path = folder / f"{version}.json"
        path.write_text(schema_text(version), encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pytest_hut.contracts.schema FOLDER")
    for written in write_schemas(Path(sys.argv[1])):
        sys.stdout.write(f"{written}\n")
