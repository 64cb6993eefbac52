"""Which firmware a test wants on its board, loaded once a process."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

import pytest

from pytest_hut.bench.models import FirmwareTable
from pytest_hut.board.slot import HutSlot
from pytest_hut.errors import ConfigError, FirmwareError
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.pytest_plugin.needs import firmware_path


def firmware_for(item: pytest.Item, slot: HutSlot, places: FirmwareTable, commit: str | None) -> ImageSet:
    """Return the firmware a test wants on the board; that of `commit`, and no other, where there is one.

    Raises:
        FirmwareError: there is none, or it is unusable.
        ConfigError: the test names one, but only that of a commit may be flashed.
    """
    if commit is not None:
        named = next((m.kwargs["firmware"] for m in item.iter_markers("hut") if "firmware" in m.kwargs), None)
        if named is not None:
            raise ConfigError(
                f"the test wants the firmware {named}, but this session flashes that of commit {commit} and no other; "
                "leave the test or --hut-commit out"
            )
        return _stored(places, commit, slot.chip)
    path = firmware_path(item)
    if path is not None:
        return _load(path, slot.chip)
    if slot.config.virtual:
        from pytest_hut.firmware.demo import demo_firmware

        return demo_firmware(slot.chip)
    raise FirmwareError(
        f"no firmware to flash on {slot.id}: give --hut-firmware=PATH, or mark the test hut(firmware=...)"
    )


def load_flashing() -> None:
    """Import esptool. A module that another thread imports already is waited for, as always in Python."""
    from pytest_hut.board.packets import loader_class

    loader_class("esp32")
    importlib.import_module("esptool.cmds")


@cache
def _load(path: Path, chip: str) -> ImageSet:
    from pytest_hut.firmware.sources import load_firmware

    return load_firmware(path, chip)


@cache
def _stored(places: FirmwareTable, commit: str, chip: str) -> ImageSet:
    from pytest_hut.hub.commit import store_of

    return store_of(places).load(commit, chip)
