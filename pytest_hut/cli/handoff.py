"""`hut handoff`: the hand-over line of a job."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from pytest_hut.cli.exits import OK
from pytest_hut.contracts.handoff import CONTEXT_OF_ROLE, Handoff, handoff_line
from pytest_hut.contracts.report import read_report
from pytest_hut.errors import ConfigError
from pytest_hut.events.types import utc_now
from pytest_hut.recording.handoff import evidence_of, needs_a_person
from pytest_hut.recording.job import commit_of


def run(options: argparse.Namespace) -> int:
    """Print the line. Raises ConfigError: the report is bad, or something is said nowhere."""
    report = read_report(Path(options.report))
    role = options.role or report.agent_role
    next_action = options.next_action or report.next_action
    if not next_action:
        raise ConfigError(f"{options.report} says no next action; give --next-action")
    here = commit_of(Path.cwd())
    tested = report.commit_sha or "none"
    head = here if tested == "none" else tested
    branch = options.branch
    if branch is None:
        if here not in (head, "none"):
            raise ConfigError(
                f"{options.report} is of commit {tested}, and {here} is checked out here, so its branch is not known; "
                "give --branch"
            )
        branch = "none" if here == "none" else _branch()
    handoff = Handoff(
        utc=utc_now()[:19] + "Z",
        role=role,
        thread_ref=options.thread_ref or report.thread_ref or "none",
        context=options.context or CONTEXT_OF_ROLE[role],
        action_type=options.action_type,
        operator_required=options.operator_required or ("yes" if needs_a_person(report) else "no"),
        executor=options.executor or ("ssh_direct" if os.environ.get("SSH_CONNECTION") else "remote_codex"),
        branch=branch,
        head=head,
        evidence=evidence_of(report, options.report),
        next_action=next_action,
    )
    print(handoff_line(handoff))
    return OK


def _branch() -> str:
    """Return the branch that is checked out; in CI, where none is, the one the run is for."""
    done = subprocess.run(["git", "branch", "--show-current"], capture_output=True, text=True, timeout=10, check=False)
    ci = os.environ.get("GITHUB_HEAD_REF") or os.environ.get("GITHUB_REF_NAME")
    return done.stdout.strip() or ci or "none"
