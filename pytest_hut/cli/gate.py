"""`hut gate`: may a change pass, as far as tests on boards can tell."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_hut.cli.exits import OK, PRODUCT
from pytest_hut.recording.gate import reasons_to_stay_closed


def run(options: argparse.Namespace) -> int:
    """Print every reason why not, or that it may."""
    reasons = reasons_to_stay_closed(
        Path(options.report), options.require, options.commit, allow_virtual=options.allow_virtual
    )
    for reason in reasons:
        print(f"closed: {' '.join(reason.split())}")
    if reasons:
        return PRODUCT
    print(f"open: {', '.join(dict.fromkeys(options.require))} passed, as {options.report} and its evidence say")
    return OK
