"""`hut doctor`: is this host ready, and if not, what to do."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pytest_hut.cli.exits import INFRASTRUCTURE, OK
from pytest_hut.doctor.examine import examine

TOPIC_WIDTH = 14


def run(options: argparse.Namespace) -> int:
    """Print what is found, each as soon as it is known."""
    findings = []
    for finding in examine(options.config, Path.cwd()):
        findings.append(finding)
        if not options.json:
            print(f"{'ok' if finding.ok else '!!'}  {finding.topic:{TOPIC_WIDTH}} {finding.text}", flush=True)
    healthy = all(finding.ok for finding in findings)
    if options.json:
        print(json.dumps({"ok": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2))
    return OK if healthy else INFRASTRUCTURE
