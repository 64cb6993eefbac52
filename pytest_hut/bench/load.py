"""Read `slots.toml`; every mistake in it becomes one sentence that names file, key, value and fix."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_hut.bench.ids import check_slot_id
from pytest_hut.bench.models import Bench, FirmwareTable, Slot
from pytest_hut.errors import ConfigError


def load_bench(path: Path) -> Bench:
    """Read a bench from a TOML file. Relative paths in it are relative to the file, except `evidence_dir`.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says something that cannot be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check its path and permissions") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}; compare it with slots.example.toml") from None
    if not data.get("slots"):
        raise ConfigError(
            f"{path}: has no slots; add at least one table such as [slots.hut-01] (see slots.example.toml)"
        )
    try:
        bench = Bench.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_mistake(error)}") from None
    return _with_absolute_paths(bench, path.parent.absolute())


def virtual_bench(slot_ids: Iterable[str], bench: Bench | None) -> Bench:
    """Return a bench on which every named slot is virtual; what `bench` says about a slot still holds.

    Raises:
        ConfigError: a name is no slot id, or its chip cannot be virtual.
    """
    known = bench.slots if bench else {}
    slots: dict[str, Slot] = {}
    for slot_id in slot_ids:
        try:
            base = known.get(slot_id)
            values = base.model_dump(exclude={"port", "relay"}) if base else {"id": slot_id, "features": ("psram",)}
            slots[slot_id] = Slot.model_validate({**values, "virtual": True})
        except ValidationError as error:
            raise ConfigError(f"--hut-virtual: slot '{slot_id}': {describe_mistake(error)}") from None
    return Bench(
        slots={**{key: slot for key, slot in known.items() if key not in slots and slot.virtual}, **slots},
        evidence_dir=bench.evidence_dir if bench else Bench().evidence_dir,
        firmware=bench.firmware if bench else Bench().firmware,
    )


def select_slots(bench: Bench, slot_ids: Iterable[str], source: str) -> list[Slot]:
    """Return the named slots in the order named.

    Raises:
        ConfigError: a name is unknown or given twice.
    """
    chosen: dict[str, Slot] = {}
    for slot_id in slot_ids:
        try:
            check_slot_id(slot_id)
        except ValueError as error:
            raise ConfigError(f"--hut-slots={slot_id}: '{slot_id}' is no slot id: {error}") from None
        if slot_id not in bench.slots:
            raise ConfigError(f"--hut-slots: there is no slot '{slot_id}' in {source}; it has {', '.join(bench.slots)}")
        if slot_id in chosen:
            raise ConfigError(f"--hut-slots: slot '{slot_id}' is named twice; name each slot once")
        chosen[slot_id] = bench.slots[slot_id]
    return list(chosen.values())


def describe_mistake(error: ValidationError) -> str:
    """Say in one sentence what is wrong first: the key, the value, and what it has to be."""
    mistake = error.errors()[0]
    # Pydantic puts the tag of a tagged union into the location; the file has no such key.
    keys = [str(part) for part in mistake["loc"] if part not in ("home-assistant", "none", "command")]
    key = ".".join(keys)
    kind = mistake["type"]
    if kind == "extra_forbidden":
        return f"unknown key '{key}'; {_known_keys(keys, mistake['loc'])}"
    value = mistake.get("input")
    message = mistake["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind == "literal_error":
        message = f"it has to be one of {mistake['ctx']['expected']}"
    shown = "" if isinstance(value, (dict, Bench, Slot)) or not key else f" = {value!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{f'{key}{shown}: ' if key else ''}{message}{more}"


def _known_keys(keys: list[str], location: tuple[int | str, ...]) -> str:
    from pytest_hut.bench import models

    model: Any = models.Bench
    for key in keys[:-1]:
        if key == "slots":
            continue
        name = {
            "home_assistant": "HomeAssistant",
            "relay": "CommandRelay" if "command" in location else "HomeAssistantRelay",
            "power": "PowerTimes",
            "virtual_board": "VirtualBoardTable",
            "faults": "FaultTable",
            "firmware": "FirmwareTable",
            "github": "GitHubTable",
        }.get(key, "Slot")
        model = getattr(models, name)
    known = [name for name in model.model_fields if name != "id"]
    return f"known here are {', '.join(known)}"


def _with_absolute_paths(bench: Bench, folder: Path) -> Bench:
    slots = {}
    for slot_id, slot in bench.slots.items():
        log = slot.virtual_board.recorded_log
        if log is not None and not log.is_absolute():
            table = slot.virtual_board.model_copy(update={"recorded_log": folder / log})
            slot = slot.model_copy(update={"virtual_board": table})
        slots[slot_id] = slot
    home_assistant = bench.home_assistant
    if home_assistant:
        files = {"credentials": home_assistant.credentials, "ca_file": home_assistant.ca_file}
        absolute = {key: folder / path.expanduser() for key, path in files.items() if path is not None}
        home_assistant = home_assistant.model_copy(update=absolute)
    firmware = _with_absolute_places(bench.firmware, folder)
    return bench.model_copy(update={"slots": slots, "home_assistant": home_assistant, "firmware": firmware})


def _with_absolute_places(firmware: FirmwareTable, folder: Path) -> FirmwareTable:
    places: dict[str, Any] = {
        name: folder / path.expanduser()
        for name, path in (("store", firmware.store), ("shared", firmware.shared))
        if path is not None
    }
    github = firmware.github
    if github and github.credentials:
        places["github"] = github.model_copy(update={"credentials": folder / github.credentials.expanduser()})
    return firmware.model_copy(update=places)
