"""What a chip does after reset: ROM, second-stage bootloader, application, as far as a host can hear it."""

from __future__ import annotations

from pytest_hut.virtual.app import run_app
from pytest_hut.virtual.bootloader import run_bootloader
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.rom import load_bootloader, print_banner


def print_download_banner(machine: Machine) -> None:
    """Print what the ROM prints before its loader waits for a host (`machine.download` is set)."""
    print_banner(Output(machine))


def run_boot(machine: Machine) -> ResetCause:
    """Boot what is in the flash, as a `Program`: returns with the reset that the chip does to itself.

    Everything up to the application is printed at 115200 baud, the application at the board's console baud.
    """
    out = Output(machine)
    print_banner(out)
    bootloader = load_bootloader(out)
    if isinstance(bootloader, ResetCause):
        return bootloader
    app = run_bootloader(out, bootloader)
    if isinstance(app, ResetCause):
        return app
    return run_app(out, app)
