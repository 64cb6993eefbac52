"""Where the evidence that a report speaks of is now."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pytest_hut.recording.manifest import MANIFEST_NAME


def evidence_folder(report_path: Path, evidence_dir: str | None, manifest_sha256: str) -> Path | None:
    """Return the folder with the evidence of a report, None if it is nowhere.

    Looked for beside the report, where the report says (from the current folder, and from the report's), and beside
    the report under the last part of that name: evidence is copied about together with its report. A folder whose
    manifest is the report's own goes before one whose manifest was changed.
    """
    beside = report_path.absolute().parent
    places = [beside]
    if evidence_dir:
        places += [Path.cwd() / evidence_dir, beside / evidence_dir, beside / Path(evidence_dir).name]
    found = [place for place in places if (place / MANIFEST_NAME).is_file()]
    return next((place for place in found if _manifest_digest(place) == manifest_sha256), found[0] if found else None)


def _manifest_digest(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
