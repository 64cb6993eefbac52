"""The command line of `hut firmware`."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SOURCES = ("shared", "artifact", "release")
COMMIT_HELP = "the commit: a full SHA, or HEAD or another name that git knows here"


def add_firmware_actions(command: argparse.ArgumentParser) -> None:
    """Add `add`, `list`, `show`, `fetch`, `verify` and `gc`; `action` names the one that was given."""
    command.add_argument("--store", metavar="DIR", type=Path, help="the store (default: what slots.toml says)")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)

    action = actions.add_parser("add", help="put firmware that is on this disk there", allow_abbrev=False)
    action.add_argument("path", metavar="PATH", type=Path, help="a build folder, a manifest, a merged .bin, or a zip")
    action.add_argument("--commit", metavar="SHA", required=True, help=COMMIT_HELP)
    action.add_argument("--chip", metavar="CHIP", help="which of several builds of a manifest")
    action.add_argument("--elf", metavar="FILE", type=Path, action="append", default=[], help="an ELF file of it")
    _add_replace(action)

    action = actions.add_parser("list", help="list what is there", allow_abbrev=False)
    _add_json(action)

    action = actions.add_parser("show", help="tell everything about the firmware of a commit", allow_abbrev=False)
    action.add_argument("commit", metavar="COMMIT", help=COMMIT_HELP)
    _add_json(action)

    action = actions.add_parser("fetch", help="bring firmware of a commit from elsewhere", allow_abbrev=False)
    action.add_argument("commit", metavar="COMMIT", help=COMMIT_HELP)
    which = action.add_mutually_exclusive_group()
    which.add_argument("--chip", metavar="CHIP", default="esp32", help="the chip it is for (default: esp32)")
    which.add_argument("--slot", metavar="SLOT", help="the slot of slots.toml whose chip it is for")
    action.add_argument(
        "--wait", metavar="SECONDS", type=_not_negative, default=0.0, help="how long to wait for it to be there"
    )
    action.add_argument(
        "--from", dest="sources", metavar="SOURCE", choices=SOURCES, action="append", help="shared, artifact or release"
    )
    action.add_argument("--repository", metavar="OWNER/NAME", help="the repository at GitHub")
    action.add_argument("--shared", metavar="DIR", type=Path, help="a folder that others fill")
    _add_replace(action)

    action = actions.add_parser("verify", help="prove every file that is there", allow_abbrev=False)
    action.add_argument("commit", metavar="COMMIT", nargs="?", help=f"{COMMIT_HELP} (default: all)")

    action = actions.add_parser("gc", help="remove what is old, never what is in use", allow_abbrev=False)
    action.add_argument("--days", metavar="N", type=_not_negative, help="what was not used for so many days")
    action.add_argument("--size", metavar="SIZE", type=_size, help="the least recently used, down to e.g. 2G or 500M")


def _add_replace(action: argparse.ArgumentParser) -> None:
    action.add_argument("--replace", action="store_true", help="also where other firmware of that commit is there")


def _add_json(action: argparse.ArgumentParser) -> None:
    action.add_argument("--json", action="store_true", help="print JSON")


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, 0 or more")
    return number


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)i?B?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 2G, 500M or 1048576")
    return int(match[1]) * SIZE_UNITS[match[2]]
