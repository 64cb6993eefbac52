"""What the exit code of `hut` says, and how an error is told in one line."""

from __future__ import annotations

import re

from pytest_hut.errors import ConfigError, HutError, ProductError, SlotBusy

OK = 0
PRODUCT = 1
FAILED = 1
"""A step of a job failed."""
USAGE = 2
INFRASTRUCTURE = 3
BUSY = 4
TIMEOUT = 5
CANCELLED = 6
RELAY_TIMEOUT = 7
RELAY_ERROR = 8
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_BASE = 128
"""A command that `hut lock` ran and that died of signal n gives 128 + n, as in a shell."""
INTERRUPTED = 130
BROKEN_PIPE = 141

EXPLAINED = """\
exit codes:
  0    done
  1    the firmware misbehaved: it crashed, did not boot, or another one booted;
       hut run: a step failed, or an expected artifact did not come;
       hut gate: closed; hut report validate: there are mistakes
  2    the command line or slots.toml cannot work as given
  3    the bench failed (port, relay, flashing, firmware files): nothing was learned about the firmware
  4    somebody else holds the slot; hut run: another job of the same role and key is active
  5    hut run: the time limit of the job was over
  6    hut run: the job was cancelled by its flag
  7    hut power: timeout; the relay, or what drives it, did not answer in time or did not follow
  8    hut power: ha_error; what drives the relay said no, made no sense, or is not there
  130  interrupted before it was done
hut lock ends with the exit code of its command (128 + n if signal n killed it; 126 or 127 if it cannot be run).
"""


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that tells whose fault `error` is."""
    match error:
        case SlotBusy():
            return BUSY
        case ProductError():
            return PRODUCT
        case ConfigError():
            return USAGE
        case KeyboardInterrupt():
            return INTERRUPTED
    return INFRASTRUCTURE


def in_one_line(error: BaseException) -> str:
    """Return the sentence of `error`, with the names that options have here."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted ({str(error) or 'Ctrl-C'})"
    if isinstance(error, OSError) and not isinstance(error, HutError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    lines = str(error).splitlines() or [type(error).__name__]
    # The packages below speak of pytest's options; the last lines of a console are shown where there is room.
    return re.sub(r"--hut-(?=[a-z])", "--", lines[0].removesuffix("; the last lines were:"))
