"""The `hut` command: each module translates a part of the command line into the packages below.

Only the module of the command that was given is imported, and with it what that needs.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from types import FrameType

from pytest_hut.cli.arguments import parse
from pytest_hut.cli.exits import BROKEN_PIPE, exit_code_of, in_one_line
from pytest_hut.errors import HutError


def main(arguments: list[str] | None = None) -> int:
    """Run `hut` with these arguments (default: those of the process) and return its exit code (see `exits`)."""
    _open_closed_streams()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            print(end="", flush=True)  # Here, where a broken pipe can still be told from other trouble.
    except BrokenPipeError:
        # Who read us has seen enough. What is still buffered goes nowhere, without a word from the interpreter.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (HutError, OSError, KeyboardInterrupt) as error:
        with suppress(OSError):  # Whoever cannot be told the reason gets the exit code all the same.
            sys.stderr.write(f"hut: error: {in_one_line(error)}\n")
        return exit_code_of(error)


def _run(arguments: list[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup wants it.
            signal.signal(number, _interrupt)
    command = import_module(f"pytest_hut.cli.{options.command}")
    code: int = command.run(options)
    return code


def _open_closed_streams() -> None:
    """Read from and write to nowhere where we were started without a stream, e.g. with `>&-` or by a bad daemon.

    Neither the packages below nor children expect that, and the next file opened, such as a board's port, would be
    taken for the missing stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # The lowest free number, so usually the missing one.
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that the board is left powered and the slot free."""
    raise KeyboardInterrupt(signal.Signals(number).name)
