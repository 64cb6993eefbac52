"""What the evidence of a job was when the job ended: a SHA-256 for every file, in the format of `sha256sum`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MANIFEST_NAME = "MANIFEST.sha256"


def write_manifest(folder: Path, leave_out: frozenset[str] = frozenset()) -> str:
    """Write the manifest of all files below `folder` and return its own hex SHA-256.

    Args:
        leave_out: names of files in `folder` that are written later, such as the report, which names the manifest.
    """
    lines = [f"{_digest(path)}  {path.relative_to(folder)}\n" for path in _files(folder, leave_out)]
    text = "".join(lines).encode()
    draft = folder / f".{MANIFEST_NAME}.{os.getpid()}"
    draft.write_bytes(text)
    draft.replace(folder / MANIFEST_NAME)
    return hashlib.sha256(text).hexdigest()


def check_manifest(folder: Path, manifest_sha256: str) -> list[str]:
    """Return what is wrong with the evidence in `folder`, one sentence each; empty when all is as it was.

    Args:
        manifest_sha256: what `write_manifest` returned, as the report has it.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        return [f"{path} cannot be read ({error.strerror})"]
    if hashlib.sha256(text).hexdigest() != manifest_sha256:
        return [f"{path} is not the manifest that the report names"]
    wrong = []
    for line in text.decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            wrong.append(f"{file} is missing")
        elif _digest(file) != digest:
            wrong.append(f"{file} was changed after the job ended")
    return wrong


def _files(folder: Path, leave_out: frozenset[str]) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(
        path
        for path in files
        if not path.name.startswith(".") and not (path.parent == folder and path.name in {MANIFEST_NAME, *leave_out})
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
