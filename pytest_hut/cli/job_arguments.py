"""The part of the command line about jobs: running one, and cancelling one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pytest_hut.contracts.guardrails import SHARED_FOLDER

Add = Callable[[str, str], argparse.ArgumentParser]
"""Adds a command by its name and what it does."""

LOCK_WAIT_S = 600.0
GRACE_S = 20.0
"""Enough for a test session to restore the power of its boards."""


def add_job_commands(add: Add, seconds: Callable[[str], float]) -> None:
    """Add the commands; `seconds` reads a time."""
    _add_run(add("run", "run a ws2.invocation.v1 under its guardrails, and report"), seconds)
    _add_cancel(add("cancel", "ask a job to end, here and now or as soon as it begins"))


def _add_run(command: argparse.ArgumentParser, seconds: Callable[[str], float]) -> None:
    command.add_argument("job", metavar="JOB.json", type=Path)
    command.add_argument("--report", metavar="FILE", type=Path, help="also write the ws2 report here")
    command.add_argument(
        "--evidence", metavar="DIR", type=Path, help="make the job's folder below this one (default: WORKDIR/build/hut)"
    )
    wait = command.add_mutually_exclusive_group()
    wait.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=LOCK_WAIT_S,
        help=f"how long to wait for an active job of the same role and key (default: {LOCK_WAIT_S:g})",
    )
    wait.add_argument("--no-wait", dest="wait", action="store_const", const=0.0, help="do not wait for such a job")
    command.add_argument(
        "--grace",
        metavar="SECONDS",
        type=seconds,
        default=GRACE_S,
        help=f"time between SIGTERM and SIGKILL for a step that has to end (default: {GRACE_S:g})",
    )
    _add_shared_folder(command)


def _add_cancel(command: argparse.ArgumentParser) -> None:
    command.add_argument("job_id", metavar="JOB_ID")
    _add_shared_folder(command)


def _add_shared_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--shared",
        metavar="DIR",
        type=Path,
        default=SHARED_FOLDER,
        help=f"where locks and cancel flags are (default: {SHARED_FOLDER}, where all other tools look)",
    )
