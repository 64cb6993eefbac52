"""The firmware of a commit: from the store, from the places it comes from, or from a build."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pytest_hut.bench.models import FirmwareTable, GitHubTable
from pytest_hut.bench.places import user_state_dir
from pytest_hut.errors import ConfigError, FirmwareError, FirmwareMissing
from pytest_hut.firmware.elf_files import elf_files_of
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.sources import load_firmware
from pytest_hut.firmware.store import FirmwareStore
from pytest_hut.firmware.store_entry import Entry
from pytest_hut.firmware.store_lock import exclusive
from pytest_hut.power.credentials import default_credentials_file, read_secret

Source = Literal["shared", "artifact", "release"]
SOURCES: tuple[Source, ...] = ("shared", "artifact", "release")
_BUILD_LOCK = ".build.lock"


def store_of(places: FirmwareTable) -> FirmwareStore:
    """Return the store that `[firmware]` names, or the user's own."""
    return FirmwareStore(places.store or user_state_dir() / "firmware")


def fetch(
    store: FirmwareStore, places: FirmwareTable, commit: str, chip: str, sources: Iterable[Source], *, replace: bool
) -> Entry:
    """Bring the firmware of a commit from the first of these places that has it into the store.

    Raises:
        FirmwareMissing: no place has it.
        FirmwareError: a place fails or has something unusable; the places behind it are not asked then.
        ConfigError: no place is configured, or the token's file is unusable.
    """
    missing: list[str] = []
    for source in sources:
        if (places.shared if source == "shared" else places.github) is None:
            continue
        try:
            images, elfs = _from(source, places, commit, chip)
        except FirmwareMissing as error:
            missing.append(str(error))
        else:
            return store.add(commit, images, elfs, replace=replace)
    if not missing:
        raise ConfigError(
            'no place to fetch from is configured; give shared = "/path" in the table [firmware] of slots.toml, or '
            'repository = "owner/name" in [firmware.github], or the options --shared and --repository'
        )
    raise FirmwareMissing("; ".join(missing))


def build_missing(
    store: FirmwareStore, places: FirmwareTable, repository: Path, commit: str, chip: str, log: Path
) -> None:
    """Build the firmware of a commit where the store lacks it or has it damaged; one build at a time.

    Raises:
        FirmwareError: it cannot be built.
    """
    from pytest_hut.hub.build import build_commit

    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(store.folder / _BUILD_LOCK):
            try:
                store.load(commit, chip)
            except FirmwareError:
                images, elfs = build_commit(
                    repository, commit, chip, places.build, places.build_output, places.build_timeout_s, log
                )
                store.add(commit, images, elfs)
    except OSError as error:
        raise FirmwareError(f"the firmware store {store.folder} cannot be written to: {error.strerror}") from error


def _from(source: Source, places: FirmwareTable, commit: str, chip: str) -> tuple[ImageSet, list[bytes]]:
    if source == "shared":
        from pytest_hut.hub.shared_folder import firmware_in_folder

        assert places.shared is not None
        return firmware_in_folder(places.shared, commit, chip)
    assert places.github is not None
    return _from_github(source, places.github, commit, chip)


def _from_github(source: Source, table: GitHubTable, commit: str, chip: str) -> tuple[ImageSet, list[bytes]]:
    from pytest_hut.hub.github import GitHub
    from pytest_hut.hub.github_firmware import download_artifact, download_release_asset

    name = table.artifact.replace("{commit}", commit).replace("{chip}", chip)
    with tempfile.TemporaryDirectory(prefix="hut-fetch-") as folder, GitHub(table.api_url, _token(table)) as hub:
        path = Path(folder) / "firmware.zip"
        if source == "artifact":
            described = download_artifact(hub, table.repository, commit, name, path)
        else:
            described = download_release_asset(hub, table.repository, commit, f"{name}.zip", path)
        try:
            images = load_firmware(path, chip)
            return replace(images, source=described), elf_files_of(images, path)
        except FirmwareError as error:
            raise FirmwareError(f"{described} cannot be used: {str(error).replace(str(path), 'it')}") from None


def _token(table: GitHubTable) -> str | None:
    """Return the token; None where nobody made a credentials file, for what is public."""
    file = table.credentials or default_credentials_file()
    if table.credentials is None and not file.exists():
        return None
    return read_secret(file, table.token_name)
