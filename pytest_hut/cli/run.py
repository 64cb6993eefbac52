"""`hut run`: run an invocation under its guardrails, and report. Here only what has to come before everything else."""

from __future__ import annotations

import argparse

from pytest_hut.jobs.signals import StopSignals


def run(options: argparse.Namespace) -> int:
    """Run the job and print what came of it. Raises ConfigError: there is no valid invocation, so there is no job."""
    # From here on a signal ends the job in order, not this program; and some libraries do not survive an interrupted
    # import, so the rest is imported inside.
    with StopSignals() as signals:
        from pytest_hut.cli.job_run import run_and_tell

        return run_and_tell(options, signals)
