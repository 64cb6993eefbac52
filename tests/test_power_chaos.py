"""Sessions killed in the middle of a power cycle: a few of those that tests/power_chaos.py repeats."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 8


def chaos(signal: str, kills: int) -> str:
    script = Path(__file__).with_name("power_chaos.py")
    done = subprocess.run(
        [sys.executable, str(script), f"--kills={kills}", f"--signal={signal}", "--slots=4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_boards_of_killed_sessions_are_on_once_the_next_session_has_begun() -> None:
    output = chaos("KILL", KILLS)
    assert f"recovery events: {KILLS} of {KILLS}\n" in output
    assert re.search(r"when the next session had begun: \d+ on, 0 off\n", output), output


@pytest.mark.parametrize(("signal", "kills"), [("TERM", KILLS), ("HUP", 3)])
def test_boards_of_ended_sessions_are_on(signal: str, kills: int) -> None:
    output = chaos(signal, kills)
    assert f": {kills} in mid-cycle" in output
    assert re.search(r"when the process had ended: \d+ on, 0 off\n", output), output
