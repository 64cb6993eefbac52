"""Play a recorded boot log in place of an application: its bytes as recorded, at the pace of its time stamps."""

from __future__ import annotations

import re

from pytest_hut.virtual.machine import ResetCause
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.rom import ROMS
from pytest_hut.virtual.script_player import be_silent_for_ever

_STAMP = re.compile(rb"\A(?:\x1b\[[0-9;]*m)?[EWIDV] \((\d+)\) ")
_RESET = re.compile(rb"\Arst:0x([0-9a-f]+) ")
_ROM_BANNER = re.compile(rb"\A(ets [A-Z]|ESP-ROM:)")
_LAST_BOOTLOADER_LINE = b"Disabling RNG early entropy source..."
_REBOOTING = b"Rebooting..."


def play_recording(out: Output, recording: bytes) -> ResetCause:
    """Print the recording from where its first application starts.

    Boots that were recorded after the first one are played too, as bytes. Where the recording ends in a reset (cut
    short before its next application started, or right after `Rebooting...`), that reset is returned, so that
    the chip starts for real and plays again; otherwise the application stays up, silent.
    """
    played, cause = _cut(recording, out.machine.spec.chip)
    base: tuple[int, float] | None = None
    latest = 0
    for line in played:
        stamp = _STAMP.match(line)
        if _ROM_BANNER.match(line):
            base, latest = None, 0
        elif stamp and base is None:
            base, latest = (int(stamp[1]), out.machine.uptime_s()), int(stamp[1])
        elif stamp and base is not None and int(stamp[1]) > latest:
            # The second CPU counts its own time, so stamps may go back; only progress is waited for.
            latest = int(stamp[1])
            wait_s = base[1] + (latest - base[0]) / 1000 - out.machine.uptime_s()
            if wait_s > 0:
                out.sleep(wait_s)
        out.write(line)
    if cause is None:
        be_silent_for_ever(out)
    return cause


def _cut(recording: bytes, chip: str) -> tuple[list[bytes], ResetCause | None]:
    """Return the lines to play, and the reset at their end if there is one."""
    lines = recording.splitlines(keepends=True)
    started = next((i + 1 for i, line in enumerate(lines) if _LAST_BOOTLOADER_LINE in line), 0)
    lines = lines[started:]
    banners = [i for i, line in enumerate(lines) if _ROM_BANNER.match(line)]
    if banners and not any(_LAST_BOOTLOADER_LINE in line for line in lines[banners[-1] :]):
        tail = lines[banners[-1] :]
        return lines[: banners[-1]], _cause_of(tail, chip)
    text = [line for line in lines if line.strip()]
    ends_in_reset = bool(text) and text[-1].strip() == _REBOOTING
    return lines, ResetCause.SOFTWARE_CPU if ends_in_reset else None


def _cause_of(boot: list[bytes], chip: str) -> ResetCause:
    """Return why the boot recorded in these lines happened."""
    codes = {code: cause for cause, (code, _) in ROMS[chip].resets.items()}
    for line in boot:
        reset = _RESET.match(line)
        if reset:
            return codes.get(int(reset[1], 16), ResetCause.SOFTWARE_CPU)
    return ResetCause.SOFTWARE_CPU
