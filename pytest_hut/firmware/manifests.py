"""The JSON files that say which file goes to which flash address.

Three forms are read: ESP-IDF's `flasher_args.json`, the manifest of ESP Web Tools (`builds` of `parts`), and the
product's release list (`bin_files`, or a plain list of file names and offsets).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import CHIPS
from pytest_hut.firmware.trees import MAX_FLASH

_T = TypeVar("_T")
_SECTOR = 0x1000
_MAX_PARTS = 100
_SETTING = re.compile(r"[A-Za-z0-9.]{1,16}")
_FILE_KEYS = ("path", "name", "file")


@dataclass(frozen=True)
class Part:
    """One file and where it goes."""

    file: str
    """As the manifest spells it."""
    offset: int
    """Bytes from the start of the flash, a multiple of 4096."""
    key: str
    """Where the manifest says so, for messages: `builds[0].parts[1]`."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest says; files are not looked at."""

    parts: tuple[Part, ...]
    chip: str | None = None
    """esptool's chip name."""
    flash_mode: str | None = None
    flash_freq: str | None = None
    flash_size: str | None = None
    confined: bool = True
    """Files must lie at or below the manifest's folder. Not so for ESP-IDF, whose paths start in the build folder."""


def chip_name(text: str, where: str) -> str:
    """Return esptool's name for `ESP32-S3`, `esp32s3` and the like; unknown chips raise FirmwareError."""
    name = re.sub(r"[-_ ]", "", text).lower()
    if name not in CHIPS:
        raise FirmwareError(f"{where} is {text!r}, which is no known chip; known are {', '.join(CHIPS)}.")
    return name


def load_json(data: bytes, where: str) -> Any:
    """Decode a JSON file; raises FirmwareError."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise FirmwareError(f"{where} is nested too deeply to be a manifest.") from None
    except ValueError as error:
        raise FirmwareError(f"{where} is no valid JSON: {error}.") from error


def is_manifest(content: Any) -> bool:
    """Whether decoded JSON has one of the known forms, well filled in or not."""
    if isinstance(content, dict):
        return any(key in content for key in ("flash_files", "builds", "bin_files"))
    return isinstance(content, list) and any(
        isinstance(item, dict) and ("bin_files" in item or "offset" in item) for item in content
    )


def parse_manifest(content: Any, where: str, chip: str | None) -> Manifest:
    """Read decoded JSON of any known form.

    `where` names the file in messages, `chip` (esptool's name) chooses among several builds. Raises FirmwareError
    with file, key, value and what to do.
    """
    if isinstance(content, dict):
        if "flash_files" in content:
            return _flasher_args(content, where)
        if "builds" in content:
            return _web_tools(content, where, chip)
        if "bin_files" in content:
            return Manifest(parts=_parts(content["bin_files"], where, "bin_files"))
    elif isinstance(content, list) and is_manifest(content):
        return _list(content, where)
    raise FirmwareError(
        f"{where} is no manifest: it has none of the keys flash_files (ESP-IDF's flasher_args.json),"
        " builds (ESP Web Tools) and bin_files."
    )


def _list(content: list[Any], where: str) -> Manifest:
    releases = [item for item in content if isinstance(item, dict) and "bin_files" in item]
    if not releases:
        return Manifest(parts=_parts(content, where, ""))
    if len(releases) > 1:
        names = ", ".join(_shown(item.get("manifest_name") or item.get("name")) for item in releases[:3])
        raise FirmwareError(f"{where} lists {len(releases)} releases; name the manifest of one of them: {names}, ...")
    return Manifest(parts=_parts(releases[0]["bin_files"], where, "bin_files"))


def _flasher_args(content: Mapping[str, Any], where: str) -> Manifest:
    files = content["flash_files"]
    if not isinstance(files, dict) or not files:
        raise FirmwareError(f"{where}: flash_files must map offsets to file names; build the project anew.")
    for key, value in content.items():
        if isinstance(value, dict) and str(value.get("encrypted", "false")).lower() == "true":
            raise FirmwareError(
                f"{where}: {_shown(key)}.encrypted is true, but encrypted flash is not supported;"
                " build without flash encryption."
            )
    settings = content.get("flash_settings")
    settings = settings if isinstance(settings, dict) else {}
    extra = content.get("extra_esptool_args")
    chip = extra.get("chip") if isinstance(extra, dict) else None
    return Manifest(
        parts=tuple(_part(file, offset, where, f"flash_files[{offset!r}]") for offset, file in _bounded(files.items())),
        chip=None if chip in (None, "auto") else chip_name(str(chip), f"{where}: extra_esptool_args.chip"),
        flash_mode=_setting(settings, "flash_mode", where),
        flash_freq=_setting(settings, "flash_freq", where),
        flash_size=_setting(settings, "flash_size", where),
        confined=False,
    )


def _setting(settings: Mapping[str, Any], key: str, where: str) -> str | None:
    value = settings.get(key)
    if value is None or value in ("keep", "detect"):
        return None
    if not isinstance(value, str) or not _SETTING.fullmatch(value):
        raise FirmwareError(f"{where}: flash_settings.{key} is {value!r}, which no flash tool knows; build anew.")
    return value


def _web_tools(content: Mapping[str, Any], where: str, chip: str | None) -> Manifest:
    builds = content["builds"]
    if not isinstance(builds, list) or not builds:
        raise FirmwareError(f"{where}: builds must be a list of at least one build.")
    families: list[str] = []
    for index, build in _bounded(enumerate(builds)):
        family = build.get("chipFamily") if isinstance(build, dict) else None
        if not isinstance(family, str):
            raise FirmwareError(f"{where}: builds[{index}].chipFamily must be a text like ESP32-S3, not {family!r}.")
        families.append(_shown(re.sub(r"[-_ ]", "", family).lower()))
    fitting = [index for index, family in enumerate(families) if chip is None or family == chip]
    if not fitting:
        raise FirmwareError(f"{where} has builds for {', '.join(families)}, none for the slot's chip {chip}.")
    if len(fitting) > 1:
        advice = "say which chip" if chip is None else "leave one of them"
        raise FirmwareError(f"{where} has builds for {', '.join(families[i] for i in fitting)}; {advice}.")
    index = fitting[0]
    return Manifest(
        parts=_parts(builds[index].get("parts"), where, f"builds[{index}].parts"),
        chip=chip_name(builds[index]["chipFamily"], f"{where}: builds[{index}].chipFamily"),
    )


def _parts(items: Any, where: str, key: str) -> tuple[Part, ...]:
    if not isinstance(items, list) or not items:
        raise FirmwareError(f"{where}: {key or 'it'} must be a list of at least one file with its offset.")
    parts = []
    for index, item in _bounded(enumerate(items)):
        label = f"{key}[{index}]"
        if not isinstance(item, dict):
            raise FirmwareError(f"{where}: {label} must be an object with path and offset, not {item!r:.60}.")
        file = next((item[name] for name in _FILE_KEYS if name in item), None)
        parts.append(_part(file, item.get("offset"), where, label))
    return tuple(parts)


def _part(file: Any, offset: Any, where: str, key: str) -> Part:
    if not isinstance(file, str) or not file or not file.isprintable():
        raise FirmwareError(f"{where}: {key} must name a file, not {file!r:.60}.")
    number = _offset(offset)
    if number is None or not 0 <= number < MAX_FLASH:
        raise FirmwareError(
            f"{where}: the offset of {key} is {offset!r:.60}; it must be a number of bytes like 0x10000,"
            f" below {MAX_FLASH:#x}."
        )
    if number % _SECTOR:
        raise FirmwareError(
            f"{where}: the offset of {key} is {number:#x}, but flash is erased in blocks of {_SECTOR:#x};"
            " it must be a multiple of that."
        )
    return Part(file=file, offset=number, key=key)


def _shown(value: object) -> str:
    """Return a manifest's own text, short and harmless enough for a message."""
    return ascii(value)[:60].strip("'")


def _offset(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16})\s*", value):
        text = value.strip()
        return int(text, 16 if text[:2].lower() == "0x" else 10)
    return None


def _bounded(items: Iterable[_T]) -> list[_T]:
    kept = list(items)
    if len(kept) > _MAX_PARTS:
        raise FirmwareError(f"A manifest of {len(kept)} entries is none; {_MAX_PARTS} at most make sense.")
    return kept
