"""`hut slots`: what there is on the bench."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pytest_hut.bench.models import Slot
from pytest_hut.bench.quarantine import quarantine_of
from pytest_hut.cli.choice import the_bench
from pytest_hut.cli.exits import OK
from pytest_hut.lease.lockfile import Holder, LockFile

HEADINGS = ("SLOT", "STATE", "CHIP", "FEATURES", "RELAY", "PORT")
GAP = "  "


def run(options: argparse.Namespace) -> int:
    """Print the slots; whoever asks this must not wait, so nothing is opened and nobody is called."""
    path, bench = the_bench(options.config)
    found = [(slot, LockFile(slot.lock).holder()) for slot in bench.slots.values()]
    if options.json:
        slots = [_as_json(slot, holder) for slot, holder in found]
        print(json.dumps({"config": str(path), "slots": slots}, indent=2))
    elif sys.stdout.isatty():
        _print_table([_cells(slot, holder) for slot, holder in found])
    else:
        _print_aligned([HEADINGS, *(_cells(slot, holder) for slot, holder in found)])
    return OK


def _as_json(slot: Slot, holder: Holder | None) -> dict[str, object]:
    return {
        "slot": slot.id,
        "chip": slot.chip,
        "features": list(slot.features),
        "virtual": slot.virtual,
        "port": slot.port,
        "port_present": _port_present(slot),
        "relay": _relay(slot),
        "lock": str(slot.lock),
        "free": holder is None,
        "held_by": asdict(holder) if holder else None,
        "quarantine": asdict(quarantine) if (quarantine := quarantine_of(slot.id)) else None,
    }


def _cells(slot: Slot, holder: Holder | None) -> tuple[str, ...]:
    port = slot.port or "virtual"
    if _port_present(slot) is False:
        port += " (not there)"
    state = f"held by {holder}" if holder else "free"
    quarantine = quarantine_of(slot.id)
    if quarantine is not None:
        state += f"; {quarantine}"
    return slot.id, state, slot.chip, ",".join(slot.features) or "-", _relay(slot) or "-", port


def _relay(slot: Slot) -> str | None:
    """Return the name of the relay, or of what drives it where it has none; None without a relay."""
    relay = slot.relay
    name: str = getattr(relay, "entity", relay.driver)
    return None if relay.driver == "none" else name


def _port_present(slot: Slot) -> bool | None:
    """Return whether the device is there; None where that cannot be seen from here: a URL, or a virtual slot."""
    return None if slot.port is None or "://" in slot.port else Path(slot.port).exists()


def _print_aligned(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADINGS, box=SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    for slot_id, state, *rest, port in rows:
        table.add_row(
            slot_id,
            Text(state, style="green" if state == "free" else "yellow"),
            *rest,
            Text(port, style="red" if port.endswith("(not there)") else ""),
        )
    Console(markup=False, emoji=False, highlight=False).print(table)
