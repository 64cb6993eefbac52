"""The application: start-up code, then its console script, a recording, or silence."""

from __future__ import annotations

from pytest_hut.virtual.app_start import print_start, psram_use, read_script
from pytest_hut.virtual.bootloader import LoadedApp
from pytest_hut.virtual.machine import ResetCause
from pytest_hut.virtual.output import Output
from pytest_hut.virtual.panic import Crash
from pytest_hut.virtual.replay import play_recording
from pytest_hut.virtual.script_player import ScriptPlayer, be_silent_for_ever


def run_app(out: Output, app: LoadedApp) -> ResetCause:
    """Run the application the bootloader loaded until it resets the chip."""
    spec = out.machine.spec
    out.machine.uart.baud = spec.console_baud
    if spec.recorded_log is not None:
        return play_recording(out, spec.recorded_log.read_bytes())
    script = read_script(out, app)
    if not print_start(out, app, psram_use(app, script)):
        out.line("Re-enable cpu cache.")
        return Crash(out, app.description).happen("abort")
    if script is None:
        be_silent_for_ever(out)
    return ScriptPlayer(out, app, script).run()
