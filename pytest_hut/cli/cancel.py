"""`hut cancel`: ask a job to end."""

from __future__ import annotations

import argparse

from pytest_hut.cli.exits import OK
from pytest_hut.jobs.cancel import request_cancel


def run(options: argparse.Namespace) -> int:
    """Make the job's cancel flag. Raises ConfigError and InfrastructureError."""
    path = request_cancel(options.job_id, options.shared)
    print(f"{path} is there: job {options.job_id} ends as soon as it is seen")
    return OK
