"""`hut lock`: run a command while a slot is locked. Needs no slots.toml, and is light: it stands before every command.

The command inherits the descriptor that carries the lock, so the slot stays locked until both it and `hut` are gone,
whatever kills either of them; when the command ends in the usual way, the slot is free.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.ids import default_lock_path
from pytest_hut.bench.places import find_config
from pytest_hut.cli.exits import NOT_EXECUTABLE, NOT_FOUND, SIGNAL_BASE
from pytest_hut.lease.lockfile import LockFile

PASSED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code. Raises ConfigError, SlotBusy, InfrastructureError."""
    path = _lock_path(options.slot, options.config)
    # Only the program's name: a command line can carry what should not be shown.
    job = f"hut lock {Path(options.command_line[0]).name}"
    with LockFile(path, job).acquire(options.lock_timeout, _tell_waiting) as lock:
        os.set_inheritable(lock.fileno(), True)
        with _signals_held_back() as mask:
            try:
                child = os.posix_spawnp(
                    options.command_line[0],
                    options.command_line,
                    os.environ,
                    setsigmask=mask,
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # What Python ignores.
                )
            except OSError as error:
                sys.stderr.write(f"hut: error: cannot run {options.command_line[0]!r}: {error.strerror}\n")
                return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            return _wait_for(child)


def _lock_path(slot_id: str, config: str | None) -> Path:
    """Return the slot's lock: what slots.toml says, where there is one that says something about it."""
    path = find_config(config, Path.cwd())
    if path is not None and _speaks_of_locks(path):
        from pytest_hut.bench.load import load_bench

        slot = load_bench(path).slots.get(slot_id)
        if slot is not None:
            return slot.lock
    return default_lock_path(slot_id)


def _speaks_of_locks(path: Path) -> bool:
    try:
        return b"lock_path" in path.read_bytes()
    except OSError:
        return True  # Loading it says what is wrong.


def _tell_waiting(text: str) -> None:
    sys.stderr.write(f"hut: {text}\n")


@contextlib.contextmanager
def _signals_held_back() -> Iterator[set[int]]:
    """While inside, the signals that `_wait_for` looks at wait to be taken; yields the mask from before."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Where it is inherited as ignored, nobody could be waited for.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    try:
        yield {int(number) for number in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wait_for(child: int) -> int:
    """Wait until the child ends, passing signals on to it, and return its exit code as a shell would tell it."""
    while True:
        taken = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD})
        if taken.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else SIGNAL_BASE - code
        elif taken.si_code <= 0:
            # Sent by a process. What the kernel sends, for Ctrl-C or a hang-up, goes to the whole group of the
            # terminal, so the child has it already.
            os.kill(child, taken.si_signo)
