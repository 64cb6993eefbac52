"""A relay that other programs switch, e.g. `uhubctl` for a USB hub, or a script for a laboratory supply.

In slots.toml each program is a list, its name first; no shell reads it. One that ends with an exit code other than 0
has failed. What `state` prints says how the relay stands: `on` if the regular expression `state_on` is found in it,
`off` if `state_off` is, and nothing that can be believed if both are or neither. With the defaults it prints `on` or
`off` on a line of its own. For one port of a hub:

    [slots.hut-01.relay]
    driver = "command"
    on = ["uhubctl", "-l", "1-1", "-p", "2", "-a", "on"]
    off = ["uhubctl", "-l", "1-1", "-p", "2", "-a", "off"]
    state = ["uhubctl", "-l", "1-1", "-p", "2"]
    state_on = "Port 2: .* power"
    state_off = "Port 2: .* off"

Without `state` nobody can tell whether the relay did anything; results then say that nothing is proved.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pytest_hut.bench.models import CommandRelay
from pytest_hut.errors import RelayError
from pytest_hut.power.driver import RelayRefused, RelayTimeout

LAST_WORDS = 200
"""Characters of a failed program's last line that are shown."""
OUTPUT_LIMIT = 65536
"""Bytes of output that are looked at."""


class CommandDriver:
    """Runs the programs of a relay, each in a session of its own, so that a Ctrl-C does not stop them half-way."""

    def __init__(self, config: CommandRelay) -> None:
        # Arguments may carry what should not be shown; the program's name does not.
        self.name = Path(config.on[0]).name
        self._config = config

    def state(self, within_s: float) -> str | None:
        """See `RelayDriver.state`."""
        if self._config.state is None:
            return None
        output = self._run(self._config.state, within_s)
        patterns = {"on": self._config.state_on, "off": self._config.state_off}
        found = [state for state, pattern in patterns.items() if re.search(pattern, output, re.MULTILINE)]
        if len(found) != 1:
            what = "both of state_on and state_off match" if found else "neither state_on nor state_off matches"
            raise RelayError(f"{what} what {Path(self._config.state[0]).name} printed; check them in slots.toml")
        return found[0]

    def command(self, on: bool, within_s: float) -> None:
        """See `RelayDriver.command`."""
        self._run(self._config.on if on else self._config.off, within_s)

    def close(self) -> None:
        """Nothing stays open."""

    def _run(self, command: Sequence[str], within_s: float) -> str:
        program = Path(command[0]).name
        limit_s = min(self._config.timeout_s, within_s)
        # Files, not pipes: a grandchild that keeps a pipe open would keep us waiting.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
                )
            except FileNotFoundError:
                raise RelayRefused(f"there is no program {program}; install it or correct slots.toml") from None
            except OSError as error:
                raise RelayRefused(f"{program} cannot be run: {error.strerror}") from None
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise RelayTimeout(f"{program} did not end within {limit_s:.3g} s and was killed") from None
            finally:
                _kill_group(process)
            if code != 0:
                raise RelayError(f"{program} {_ended(code)}{_last_line(errors)}")
            output.seek(0)
            return output.read(OUTPUT_LIMIT).decode(errors="replace")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the program, if it has not ended, and what it started."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - OUTPUT_LIMIT))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:LAST_WORDS]}" if lines else ""
