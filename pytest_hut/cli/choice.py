"""Which bench, slot and firmware the command line means."""

from __future__ import annotations

from pathlib import Path

from pytest_hut.bench.load import load_bench, virtual_bench
from pytest_hut.bench.models import Bench, Slot
from pytest_hut.bench.places import find_config
from pytest_hut.cli.arguments import ALL
from pytest_hut.errors import ConfigError
from pytest_hut.firmware.imageset import ImageSet

DEMO = "demo"


def the_bench(config: str | None) -> tuple[Path, Bench]:
    """Return the bench and the file it is from. Raises ConfigError: there is none, or it is bad."""
    path = find_config(config, Path.cwd())
    if path is None:
        raise ConfigError(
            "there is no slots.toml (looked at --config, HUT_CONFIG, ./slots.toml, ~/.config/hut/slots.toml, "
            "/etc/hut/slots.toml); copy slots.example.toml, or work without hardware: hut virtual, hut flash --virtual"
        )
    return path, load_bench(path)


def a_virtual_bench(config: str | None, slot_ids: list[str]) -> Bench:
    """Return a bench on which the named slots are virtual; with a slots.toml, what it says of them holds.

    Raises:
        ConfigError: it cannot be, or slots.toml is bad.
    """
    path = find_config(config, Path.cwd())
    return virtual_bench(slot_ids, load_bench(path) if path else None)


def the_slot(slot_id: str, config: str | None, *, virtual: bool) -> tuple[Bench, Slot]:
    """Return a slot and its bench. Raises ConfigError: there is no such slot, or what the two above raise."""
    bench, (slot,) = the_slots([slot_id], config, virtual=virtual)
    return bench, slot


def the_slots(slot_ids: list[str], config: str | None, *, virtual: bool) -> tuple[Bench, list[Slot]]:
    """Return the slots named, or those of slots.toml for `all`, and their bench.

    Raises ConfigError: there is no such slot, or no slots.toml.
    """
    if virtual and slot_ids != [ALL]:
        bench = a_virtual_bench(config, slot_ids)
        return bench, [bench.slots[slot_id] for slot_id in slot_ids]
    path, bench = the_bench(config)
    if slot_ids == [ALL]:
        if virtual:
            bench = a_virtual_bench(config, list(bench.slots))
        return bench, list(bench.slots.values())
    for slot_id in slot_ids:
        if slot_id not in bench.slots:
            raise ConfigError(f"there is no slot '{slot_id}' in {path}; it has {', '.join(bench.slots)}")
    return bench, [bench.slots[slot_id] for slot_id in slot_ids]


def the_firmware(name: str, slot: Slot) -> ImageSet:
    """Return the firmware at a path, or the demo.

    Raises:
        ConfigError: there is nothing at that path, or the demo is wanted on a real board, which it cannot run.
        FirmwareError: it is damaged, or not for the chip of the slot.
    """
    if name == DEMO:
        if not slot.virtual:
            raise ConfigError(
                f"the demo firmware runs on virtual boards only, and {slot.id} is a real one; give the path of a "
                "firmware, or add --virtual"
            )
        from pytest_hut.firmware.demo import demo_firmware

        return demo_firmware(slot.chip)
    from pytest_hut.firmware.sources import load_firmware

    path = Path(name)
    if not path.exists():
        raise ConfigError(f"firmware {name}: there is no such file or folder")
    return load_firmware(path, slot.chip)
