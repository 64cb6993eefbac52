"""What a virtual chip runs: the one place that knows the modules behind `machine.Program` and `machine.Flash`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_hut.virtual.machine import Flash, Machine, Program, ResetCause

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class ChipPrograms:
    """The code in a chip's ROM, and how its flash is opened."""

    download: Program
    """Runs when IO0 was low as EN rose."""
    boot: Program
    """Runs otherwise, and after every reset that the chip does to itself."""
    open_flash: Callable[[Path, int], Flash]
    """Opens, creating it erased where there is none, a flash of so many bytes in a file."""


def espressif_programs() -> ChipPrograms:
    """Return the ROM loader and the boot chain; loads them, so not for import time."""
    from pytest_hut.virtual.boot import print_download_banner, run_boot
    from pytest_hut.virtual.flash import FileFlash
    from pytest_hut.virtual.loader import run_loader

    def download(machine: Machine) -> ResetCause:
        print_download_banner(machine)
        return run_loader(machine)

    return ChipPrograms(download=download, boot=run_boot, open_flash=FileFlash)
