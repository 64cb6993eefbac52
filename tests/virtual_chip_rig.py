"""A machine to run a virtual chip's loader on, for the tests that do."""

from __future__ import annotations

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.virtual.chips import CHIPS
from pytest_hut.virtual.machine import Machine, ResetCause

MIB = 1024 * 1024
MAC = bytes.fromhex("246f28a1b2c3")
EVERY_CHIP = sorted(CHIPS)


def machine_with(uart: object, flash: object, chip: str, faults: set[str], **more: bool) -> Machine:
    def take_fault(name: str) -> bool:
        there = name in faults
        faults.discard(name)
        return there

    return Machine(
        spec=VirtualBoardSpec("hut-01", chip=chip, **more),  # type: ignore[arg-type]
        uart=uart,  # type: ignore[arg-type]
        flash=flash,  # type: ignore[arg-type]
        mac=MAC,
        reset_cause=ResetCause.POWER_ON,
        download=True,
        sleep=lambda seconds: None,
        uptime_s=lambda: 0.0,
        take_fault=take_fault,
    )
