"""Firmware of a commit among a repository's workflow artifacts and release assets.

Source: GitHub's "REST API endpoints for GitHub Actions artifacts", "... for releases", "... for release assets".
A name proves nothing, since every workflow run chooses its own: an artifact counts only when GitHub itself says that
its run was of that commit, a release only when GitHub says that its tag is that commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytest_hut.errors import FirmwareMissing
from pytest_hut.hub.github import BYTES, GitHub

PER_PAGE = 100


def download_artifact(hub: GitHub, repository: str, commit: str, name: str, into: Path) -> str:
    """Write the newest artifact called `name` of a run of `commit` to the file `into` (a zip); return what it is.

    Raises:
        FirmwareMissing: there is none, or it has expired.
        FirmwareError: GitHub refuses, cannot be reached, or the download is damaged.
    """
    listing = f"/repos/{repository}/actions/artifacts?per_page={PER_PAGE}&name={quote(name, safe='')}"
    what = f"artifact {name} of {repository}"
    found = [
        artifact
        for artifact in hub.pages(listing, what, "artifacts")
        if artifact.get("name") == name and _run_of(artifact).get("head_sha") == commit
    ]
    if not found:
        raise FirmwareMissing(f"{repository} has no artifact {name} of commit {commit}; wait for its upstream workflow")
    newest = max(found, key=lambda artifact: (not artifact.get("expired"), str(artifact.get("created_at"))))
    if newest.get("expired"):
        raise FirmwareMissing(
            f"{what} of commit {commit} has expired ({newest.get('expires_at')}); run the upstream workflow again"
        )
    number = int(newest["id"])
    hub.download(f"/repos/{repository}/actions/artifacts/{number}/zip", what, into, digest=newest.get("digest"))
    return f"{repository} artifact {number} of run {_run_of(newest).get('id')}"


def download_release_asset(hub: GitHub, repository: str, commit: str, name: str, into: Path) -> str:
    """Write the asset called `name` of the release whose tag is `commit` to the file `into`; return what it is.

    Raises as `download_artifact`.
    """
    for tag in _tags_of(hub, repository, commit):
        try:
            release = hub.get(f"/repos/{repository}/releases/tags/{quote(tag, safe='')}", f"release {tag}")
        except FirmwareMissing:
            continue  # A tag without a release.
        for asset in release.get("assets") or ():
            if asset.get("name") == name:
                number = int(asset["id"])
                what = f"asset {name} of release {tag} of {repository}"
                path = f"/repos/{repository}/releases/assets/{number}"
                hub.download(path, what, into, accept=BYTES, digest=asset.get("digest"))
                return f"{repository} release {tag} asset {name}"
    raise FirmwareMissing(f"{repository} has no release of commit {commit} with an asset {name}")


def _tags_of(hub: GitHub, repository: str, commit: str) -> Iterator[str]:
    for tag in hub.pages(f"/repos/{repository}/tags?per_page={PER_PAGE}", f"tags of {repository}"):
        target = tag.get("commit")
        if isinstance(target, dict) and target.get("sha") == commit:
            yield str(tag.get("name"))


def _run_of(artifact: dict[str, Any]) -> dict[str, Any]:
    run = artifact.get("workflow_run")
    return run if isinstance(run, dict) else {}
