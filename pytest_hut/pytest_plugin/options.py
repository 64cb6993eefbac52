"""The command line options, all in one place."""

from __future__ import annotations

import math

import pytest

from pytest_hut.board.flash_modes import FLASH_MODES
from pytest_hut.contracts.guardrails import TIME_LIMITS
from pytest_hut.scheduling.health import DEFAULT_LIMIT

DEFAULT_TIMEOUT_S = float(TIME_LIMITS["runner"].default_s)
MAXIMUM_TIMEOUT_S = float(TIME_LIMITS["runner"].maximum_s)
"""The limits of a job of the runner role, which a session is."""

LANES = ("upstream", "local-hil")


def add_options(parser: pytest.Parser) -> None:
    """Add them to pytest's parser."""
    group = parser.getgroup("hut", "hardware under test (pytest-hut)")
    option = group.addoption
    option(
        "--hut-slots",
        metavar="ID,ID",
        default="",
        help="slots to use: hut-01,hut-02 (worker k gets the k-th), all, any:2 (any two that are free), or "
        "any:2:esp32s3+psram (of those with these words)",
    )
    option(
        "--hut-no-slot",
        choices=("skip", "error"),
        default="skip",
        help="how a test is reported that no slot of the session fits (default: skip)",
    )
    option(
        "--hut-quarantine-after",
        metavar="N",
        type=int,
        default=DEFAULT_LIMIT,
        help=f"use a slot no more after N failures of the bench in a row; 0: never mind (default: {DEFAULT_LIMIT})",
    )
    option("--hut-virtual", action="store_true", help="every slot named is a virtual one: no hardware is touched")
    option("--hut-config", metavar="FILE", help="the bench (default: $HUT_CONFIG, ./slots.toml, ...)")
    option("--hut-firmware", metavar="PATH", help="firmware that flashed_firmware puts on the boards")
    option(
        "--hut-commit",
        metavar="SHA|HEAD",
        help="the firmware of this commit, from the firmware store, and no other (see hut firmware)",
    )
    option(
        "--hut-build",
        action="store_true",
        help="build the firmware of --hut-commit where the store lacks it, with the command of [firmware] build",
    )
    option(
        "--hut-flash",
        choices=FLASH_MODES,
        default="auto",
        help="auto: write what differs, trust what this slot is known to hold (default); verify: let the chip prove "
        "it every time; always: write everything; never: write nothing, the boot banner must prove it",
    )
    option("--hut-report", metavar="FILE", help="also write the ws2 report here")
    option("--hut-evidence", metavar="DIR", help="make the job's folder below this one (default: build/hut)")
    option(
        "--hut-lock-timeout",
        metavar="SECONDS",
        type=float,
        default=600.0,
        help="how long to wait for a slot that somebody else holds (default: 600)",
    )
    option("--hut-job-id", metavar="ID", help="the job this session belongs to (default: made from the time)")
    option("--hut-thread-ref", metavar="REF", help="ties this job to others of one effort; copied to the report")
    option(
        "--hut-timeout",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help=f"end the session after this time, boards restored (default: {DEFAULT_TIMEOUT_S:g}, "
        f"at most {MAXIMUM_TIMEOUT_S:g})",
    )
    option(
        "--hut-lane",
        choices=LANES,
        default="local-hil",
        help="upstream: no hardware is touched, whatever --hut-slots and slots.toml say (default: local-hil)",
    )


def check_numbers(config: pytest.Config) -> None:
    """Raise pytest.UsageError where an option's number makes no sense."""
    limit = config.getoption("hut_timeout")
    if not 0 < limit <= MAXIMUM_TIMEOUT_S:
        raise pytest.UsageError(
            f"--hut-timeout={limit:g}: a session may take more than 0 and at most {MAXIMUM_TIMEOUT_S:g} s"
        )
    wait = config.getoption("hut_lock_timeout")
    if not 0 <= wait < math.inf:
        raise pytest.UsageError(f"--hut-lock-timeout={wait:g}: give seconds, 0 or more")
    failures = config.getoption("hut_quarantine_after")
    if failures < 0:
        raise pytest.UsageError(f"--hut-quarantine-after={failures}: give a number of failures, or 0 for never")


def worker_count(config: pytest.Config) -> int:
    """Return how many workers xdist starts; 0 where this process runs the tests itself."""
    if config.getoption("dist", "no") == "no":
        return 0
    count = 0
    for spec in config.getoption("tx"):
        times, star, _ = spec.partition("*")
        count += int(times) if star and times.isdecimal() else 1
    return count


def lane_without_slots(config: pytest.Config) -> bool:
    """Whether this is the upstream lane, which has no hardware: only virtual boards of `--hut-virtual` are served."""
    return config.getoption("hut_lane", "") == "upstream" and not config.getoption("hut_virtual", False)


def asked_slots(config: pytest.Config) -> list[str]:
    """Return the words of `--hut-slots`, in order: slot ids, or one word that means some. None in a lane without."""
    if lane_without_slots(config):
        return []
    text: str = config.getoption("hut_slots", "") or ""
    return [word.strip() for word in text.split(",") if word.strip()]
