"""`hut firmware`: the store of firmware by commit."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pytest_hut.bench.load import describe_mistake, load_bench
from pytest_hut.bench.models import CHIPS, FirmwareTable, GitHubTable
from pytest_hut.bench.places import find_config
from pytest_hut.cli.choice import the_slot
from pytest_hut.cli.exits import INFRASTRUCTURE, OK
from pytest_hut.errors import ConfigError, FirmwareMissing
from pytest_hut.firmware.commits import resolve_commit
from pytest_hut.firmware.elf_files import elf_files_of
from pytest_hut.firmware.sources import load_firmware
from pytest_hut.firmware.store import FirmwareStore, Kept
from pytest_hut.firmware.store_entry import Entry
from pytest_hut.firmware.trees import read_file
from pytest_hut.hub.commit import SOURCES, fetch, store_of

HEADINGS = ("COMMIT", "CHIP", "VERSION", "SIZE", "USED", "SOURCE")
SHORT_SHA = 12
SECONDS_PER_DAY = 86400
ASK_AGAIN_S = 15.0
"""Far below what GitHub's rate limit allows."""


def run(options: argparse.Namespace) -> int:
    """Do what `options.action` names. Raises ConfigError, FirmwareError."""
    actions: Mapping[str, Callable[[argparse.Namespace, FirmwareTable], int]] = {
        "add": _add,
        "list": _list,
        "show": _show,
        "fetch": _fetch,
        "verify": _verify,
        "gc": _gc,
    }
    return actions[options.action](options, _places(options))


def _places(options: argparse.Namespace) -> FirmwareTable:
    path = find_config(options.config, Path.cwd())
    places = load_bench(path).firmware if path else FirmwareTable()
    return places.model_copy(update={"store": options.store.absolute()}) if options.store else places


def _add(options: argparse.Namespace, places: FirmwareTable) -> int:
    if not options.path.exists():
        raise ConfigError(f"firmware {options.path}: there is no such file or folder")
    commit = resolve_commit(options.commit, Path.cwd())
    images = load_firmware(options.path, options.chip)
    elfs = elf_files_of(images, options.path) + [read_file(path) for path in options.elf]
    _say_added(store_of(places).add(commit, images, elfs, replace=options.replace))
    return OK


def _fetch(options: argparse.Namespace, places: FirmwareTable) -> int:
    commit = resolve_commit(options.commit, Path.cwd())
    chip = _chip(options)
    if options.shared:
        places = places.model_copy(update={"shared": options.shared.absolute()})
    if options.repository:
        places = places.model_copy(update={"github": _at(options.repository, places.github)})
    store, sources = store_of(places), options.sources or SOURCES
    deadline = time.monotonic() + options.wait
    while True:
        try:
            _say_added(fetch(store, places, commit, chip, sources, replace=options.replace))
        except FirmwareMissing as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            sys.stderr.write(f"hut: waiting for it, {left:.0f} s at most: {error}\n")
            time.sleep(min(ASK_AGAIN_S, left))  # Nobody tells us when it is there.
        else:
            return OK


def _chip(options: argparse.Namespace) -> str:
    if options.slot:
        chip: str = the_slot(options.slot, options.config, virtual=False)[1].chip
        return chip
    if options.chip not in CHIPS:
        raise ConfigError(f"--chip={options.chip}: a slot's chip can be one of {', '.join(CHIPS)}")
    return str(options.chip)


def _at(repository: str, github: GitHubTable | None) -> GitHubTable:
    values = github.model_dump() if github else {}
    try:
        return GitHubTable.model_validate({**values, "repository": repository})
    except ValidationError as error:
        raise ConfigError(f"--repository: {describe_mistake(error)}") from None


def _say_added(entry: Entry) -> None:
    what = " ".join(word for word in (entry.boots, entry.version) if word)
    print(f"{entry.commit} {entry.chip} {what} ({entry.size // 1024} KiB, {len(entry.elfs)} ELF, from {entry.source})")


def _list(options: argparse.Namespace, places: FirmwareTable) -> int:
    store = store_of(places)
    found = store.entries()
    if options.json:
        print(json.dumps({"store": str(store.folder), "entries": [_as_json(kept) for kept in found]}, indent=2))
        return OK
    rows = [HEADINGS, *(_cells(kept) for kept in found)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return OK


def _show(options: argparse.Namespace, places: FirmwareTable) -> int:
    found = _of_commit(store_of(places), options.commit)
    if options.json:
        print(json.dumps([_as_json(kept) for kept in found], indent=2))
        return OK
    for kept in found:
        print(f"{kept.commit} {kept.chip}: {kept.problem or 'every file is as it was stored'}")
        print(f"  folder   {kept.folder}")
        print(f"  used     {_utc(kept.used_at)}")
        if kept.entry is None:
            continue
        print(f"  added    {kept.entry.added_utc} from {kept.entry.source}")
        for app in kept.entry.apps:
            boots = ", boots" if app.partition == kept.entry.boots else ""
            print(f"  app      {app.partition}: {app.project} {app.version} (IDF {app.idf_version}{boots})")
            print(f"           ELF SHA-256 {app.elf_sha256}")
        for image in kept.entry.images:
            print(f"  image    {image.offset:#x} {image.name} {image.size} bytes, SHA-256 {image.sha256}")
        for elf in kept.entry.elfs:
            print(f"  ELF      {elf.file} {elf.size} bytes")
    return OK


def _verify(options: argparse.Namespace, places: FirmwareTable) -> int:
    store = store_of(places)
    found = _of_commit(store, options.commit) if options.commit else store.entries(thorough=True)
    for kept in found:
        print(f"{kept.commit} {kept.chip}: {kept.problem or 'good'}")
    bad = [kept for kept in found if kept.problem]
    if bad:
        sys.stderr.write(f"hut: error: {len(bad)} of {len(found)} entries are damaged; add or fetch them again\n")
    return INFRASTRUCTURE if bad else OK


def _gc(options: argparse.Namespace, places: FirmwareTable) -> int:
    if options.days is None and options.size is None:
        raise ConfigError("say what may go: --days N, --size SIZE, or both")
    seconds = None if options.days is None else options.days * SECONDS_PER_DAY
    removed, in_use = store_of(places).collect(seconds, options.size)
    for words, found in (("removed", removed), ("in use", in_use)):
        for kept in found:
            print(f"{words} {kept.commit} {kept.chip} ({kept.size // 1024} KiB, last used {_utc(kept.used_at)})")
    return OK


def _of_commit(store: FirmwareStore, text: str) -> list[Kept]:
    commit = resolve_commit(text, Path.cwd())
    found = [kept for kept in store.entries() if kept.commit == commit]
    if not found:
        raise FirmwareMissing(f"the firmware store {store.folder} has no firmware of commit {commit}")
    return [replace(kept, problem=store.problem_of(kept)) for kept in found]


def _as_json(kept: Kept) -> dict[str, object]:
    return {
        "commit": kept.commit,
        "chip": kept.chip,
        "folder": str(kept.folder),
        "bytes": kept.size,
        "used_utc": _utc(kept.used_at),
        "problem": kept.problem or None,
        "entry": kept.entry.to_json() if kept.entry else None,
    }


def _cells(kept: Kept) -> tuple[str, ...]:
    entry = kept.entry
    version = (entry.version or "-") if entry else "damaged"
    source = entry.source if entry else "-"
    return kept.commit[:SHORT_SHA], kept.chip, version, f"{kept.size // 1024} KiB", _utc(kept.used_at), source


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
