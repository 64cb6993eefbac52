"""`hut virtual`: serve virtual boards to any tool, until Ctrl-C or SIGTERM.

What it prints is itself a slots.toml that reaches the boards, so the output can be pasted or saved as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import VIRTUAL_CHIPS, Slot
from pytest_hut.bench.places import find_config, user_state_dir
from pytest_hut.cli.arguments import LAST_TCP_PORT
from pytest_hut.cli.choice import a_virtual_bench, the_firmware
from pytest_hut.cli.exits import OK
from pytest_hut.errors import ConfigError, InfrastructureError
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.virtual.board import VirtualBoard
from pytest_hut.virtual.client import make_runtime_dir
from pytest_hut.virtual.flash import FileFlash
from pytest_hut.virtual.server import VirtualBench

DEFAULT_SLOTS = ("hut-01", "hut-02")

SWITCH_INTERVAL_S = 0.0005
"""Every chip is a thread: with Python's 5 ms, one that computes would make the others late on their wires."""


def run(options: argparse.Namespace) -> int:
    """Serve until told to end, which is success. Raises ConfigError, FirmwareError, InfrastructureError."""
    slots = _slots(options)
    firmware = {slot.id: the_firmware(options.firmware, slot) for slot in slots} if options.firmware else {}
    specs = [slot.virtual_spec() for slot in slots]
    state_dir = (options.state or user_state_dir() / "virtual").absolute()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    bench = VirtualBench(specs, state_dir, make_runtime_dir(specs), rfc2217_ports=_tcp_ports(options, slots))
    with _ending_signals() as ending, _served(bench):
        for slot_id, images in firmware.items():
            _put_into_flash(bench.boards[slot_id], state_dir / slot_id / "flash.bin", images)
        described = bench.describe()
        print(json.dumps(described) if options.json else _as_toml(described, slots), flush=True)
        signal.sigwait(ending)
    return OK


def _slots(options: argparse.Namespace) -> list[Slot]:
    slot_ids = list(dict.fromkeys(options.slots)) or _virtual_ones(options.config) or list(DEFAULT_SLOTS)
    bench = a_virtual_bench(options.config, slot_ids)
    if options.chip is None:
        return [bench.slots[slot_id] for slot_id in slot_ids]
    if options.chip not in VIRTUAL_CHIPS:
        raise ConfigError(f"--chip={options.chip}: a virtual board can be one of {', '.join(VIRTUAL_CHIPS)}")
    return [bench.slots[slot_id].model_copy(update={"chip": options.chip}) for slot_id in slot_ids]


def _virtual_ones(config: str | None) -> list[str]:
    path = find_config(config, Path.cwd())
    return [slot.id for slot in load_bench(path).slots.values() if slot.virtual] if path else []


def _tcp_ports(options: argparse.Namespace, slots: list[Slot]) -> Mapping[str, int]:
    first: int | None = options.rfc2217_port
    if first is None:
        return {}
    if first + len(slots) - 1 > LAST_TCP_PORT:
        raise ConfigError(f"--rfc2217-port={first}: {len(slots)} boards need ports beyond {LAST_TCP_PORT}")
    return {slot.id: first + number for number, slot in enumerate(slots)}


@contextlib.contextmanager
def _ending_signals() -> Iterator[set[int]]:
    """Hold back the signals that end the command while inside, in every thread begun there, to be waited for."""
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ending: set[int] = {number for number in asked if signal.getsignal(number) is not signal.SIG_IGN}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield ending
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _served(bench: VirtualBench) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(bench)
        except ValueError as error:  # E.g. a flash file of another size.
            raise InfrastructureError(f"the virtual boards cannot be served: {error}") from None
        yield


def _put_into_flash(board: VirtualBoard, flash_file: Path, images: ImageSet) -> None:
    """Write images as a programmer would that is clipped to the flash chip: with the power off."""
    if images.images[-1].end > board.spec.flash_size:
        raise ConfigError(
            f"{images.source} ends at {images.images[-1].end:#x}, but the flash of {board.spec.slot_id} has only "
            f"{board.spec.flash_size // 1024} KiB"
        )
    was_on = board.powered
    board.power(False)
    with contextlib.closing(FileFlash(flash_file, board.spec.flash_size)) as flash:
        for image in images.images:
            flash.erase(image.offset, len(image.data))
        for image in images.images:
            flash.write(image.offset, image.data)
    board.power(was_on)


def _as_toml(described: dict[str, Any], slots: list[Slot]) -> str:
    server = described["home_assistant"]
    lines = [
        "# Virtual boards, served until Ctrl-C or SIGTERM. This text is a slots.toml that reaches them.",
        "[home_assistant]",
        f"url = {_quoted(server['url'])}",
        f"credentials = {_quoted(server['credentials'])}  # the token is in this file",
    ]
    for slot in slots:
        board = described["boards"][slot.id]
        lines += [
            "",
            f"[slots.{slot.id}]",
            f"port = {_quoted(board['port'])}",
            f"# port = {_quoted(board['rfc2217'])}  # the same board over the network",
            f"chip = {_quoted(slot.chip)}",
            f"features = [{', '.join(map(_quoted, slot.features))}]",
            f"console_baud = {slot.console_baud}",
            f"adapter = {_quoted(slot.adapter)}",
            f'relay = {{ driver = "home-assistant", entity = {_quoted(board["relay"])} }}',
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
