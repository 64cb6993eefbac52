"""The GitHub workflows: valid, linted, and every command in them run here or in `.ci/run`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from github_stand_in import REPOSITORY, TOKEN, StandIn, github_stand_in
from lab import HW_BOOT_001, Lab
from lab import REPOSITORY as HERE
from ruamel.yaml import YAML
from test_github_firmware import GOOD, NAME, OTHER_SHA, SHA

WORKFLOWS = sorted((HERE / ".github/workflows").glob("*.yml"))
SCRIPTS = Path(sys.executable).parent

RUN_HERE = {
    ("upstream", "Hardware tests are skipped here, and say why"),
    ("hardware", "gate"),
    ("hardware", "Firmware of this commit"),
    ("hardware", "Tests"),
}
RUN_BY_CI = {
    ("upstream", "Everything a change has to pass"): ".ci/run",
    # The README's commands, which .ci/run runs, begin in the same way.
    ("hardware", "Install"): 'python3 -m venv .venv && .venv/bin/pip install --quiet "$REQUIREMENT"',
}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(HERE / f".github/workflows/{name}.yml")
    return content


def commands() -> dict[tuple[str, str], str]:
    found = {}
    for path in WORKFLOWS:
        for job in load(path.stem)["jobs"].values():
            for step in job.get("steps", ()):
                if "run" in step:
                    found[path.stem, step.get("name") or step["id"]] = step["run"]
    return found


def test_the_workflows_are_valid() -> None:
    done = subprocess.run(
        [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(
        [SCRIPTS / "zizmor", "--offline", "--no-progress", HERE / ".github"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No findings to report" in done.stdout + done.stderr


def test_every_command_is_run_by_a_test_or_by_ci() -> None:
    assert set(commands()) == RUN_HERE | set(RUN_BY_CI)
    assert {key: commands()[key].strip() for key in RUN_BY_CI} == RUN_BY_CI
    assert "python3 -m venv .venv && .venv/bin/pip install --quiet" in (HERE / "README.md").read_text()


def test_a_product_needs_five_lines(tmp_path: Path) -> None:
    guide = (HERE / "docs/how-to/run-in-github-actions.md").read_text()
    [text] = [
        block for block in re.findall(r"^```yaml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL) if "jobs:" in block
    ]
    caller = YAML(typ="safe").load(text)
    called = load("hardware")["on"]

    assert len(text.splitlines()) == 5
    assert set(caller["jobs"]["hardware"]["with"]) <= set(called["workflow_call"]["inputs"])
    assert {event: called[event] for event in caller["on"]} == caller["on"]
    path = tmp_path / "hardware.yml"
    path.write_text(text)
    schema = ["--builtin-schema", "vendor.github-workflows"]
    subprocess.run([SCRIPTS / "check-jsonschema", *schema, path], check=True, capture_output=True)


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])
def test_scripts_are_valid_shell(name: str) -> None:
    for (workflow, _), script in commands().items():
        if workflow == name:
            assert "${{" not in script  # Values come through the environment, where they are no code.
            subprocess.run(["bash", "-n", "-c", script], check=True)


def test_hardware_runs_on_the_runner_of_the_slot_one_job_at_a_time() -> None:
    job = load("hardware")["jobs"]["hil"]

    assert job["runs-on"] == ["self-hosted", "esp32-${{ matrix.slot }}"]
    assert job["concurrency"] == {"group": "esp32-${{ matrix.slot }}", "cancel-in-progress": False}
    assert job["needs"] == "gate" and job["if"] == "needs.gate.outputs.commit != ''"
    assert "pull_request" not in load("hardware")["on"]
    for workflow in ("upstream", "hardware"):
        for each in load(workflow)["jobs"].values():
            assert all(right == "read" for right in each["permissions"].values())


def run_script(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as GitHub's runner does with `shell: bash`."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


FAKE_GH = """#!/bin/sh
[ -n "$GH_TOKEN" ] || exit 4
case "$*" in
  "api repos/owner/product/collaborators/writer/permission --jq .permission") echo write ;;
  "api repos/owner/product/collaborators/owner/permission --jq .permission") echo admin ;;
  "api repos/owner/product/collaborators/triager/permission --jq .permission") echo read ;;
  "api repos/owner/product/git/ref/pull/7/head --jq .object.sha") echo HEAD_SHA ;;
  *) echo "gh: Not Found (HTTP 404)" >&2; exit 1 ;;
esac
"""


@dataclass
class Gate:
    folder: Path

    def decide(self, **event: str) -> tuple[str, list[str]]:
        """Return the commit that gets hardware, if any, and the slots."""
        output = self.folder / "output"
        output.write_text("")
        environment = {
            "GH_TOKEN": "token",
            "EVENT": "",
            "ACTOR": "writer",
            "REPOSITORY": "owner/product",
            "SLOTS": '["hut-01", "hut-02"]',
            "SMOKE_SLOTS": "[]",
            "PUSHED": OTHER_SHA,
            "LABEL": "",
            "LABELED": "",
            "COMMENT": "",
            "PULL_REQUEST": "",
            "GITHUB_OUTPUT": str(output),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            **event,
        }
        done = run_script(commands()["hardware", "gate"], self.folder, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        values = dict(line.split("=", 1) for line in output.read_text().splitlines())
        assert set(values) == {"commit", "slots"}
        return values["commit"], json.loads(values["slots"])


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    gh = tmp_path / "gh"
    gh.write_text(FAKE_GH.replace("HEAD_SHA", SHA))
    gh.chmod(0o755)
    return Gate(tmp_path)


BOTH = ["hut-01", "hut-02"]


def test_a_label_by_a_writer_opens_the_gate_for_the_labelled_commit(gate: Gate) -> None:
    labelled = {"EVENT": "pull_request_target", "LABEL": "hardware", "LABELED": SHA}

    assert gate.decide(**labelled) == (SHA, BOTH)
    assert gate.decide(**labelled, ACTOR="owner") == (SHA, BOTH)
    assert gate.decide(**labelled, ACTOR="triager") == ("", [])
    assert gate.decide(**labelled, ACTOR="stranger") == ("", [])
    assert gate.decide(**{**labelled, "LABEL": "bug"}) == ("", [])


def test_a_comment_by_a_writer_that_names_the_commit_opens_the_gate(gate: Gate) -> None:
    comment = {"EVENT": "issue_comment", "PULL_REQUEST": "7", "COMMENT": f"/hardware {SHA}\r\nplease"}

    assert gate.decide(**comment) == (SHA, BOTH)
    assert gate.decide(**comment, ACTOR="stranger") == ("", [])
    for text in (
        "",
        "/hardware",
        f"/hardware {OTHER_SHA}",
        f"/hardware {SHA[:12]}",
        f"please /hardware {SHA}",
        f"please\n/hardware {SHA}",
        '/hardware $(touch injected) `touch injected`"',
        "/hardware *",
    ):
        assert gate.decide(**{**comment, "COMMENT": text}) == ("", []), text
    assert gate.decide(**{**comment, "PULL_REQUEST": ""}) == ("", [])
    assert gate.decide(**{**comment, "PULL_REQUEST": "8"}) == ("", [])
    assert not (gate.folder / "injected").exists()


def test_a_push_gets_the_smoke_slots_and_an_untrusted_event_nothing(gate: Gate) -> None:
    assert gate.decide(EVENT="push") == ("", [])
    assert gate.decide(EVENT="push", SMOKE_SLOTS='["hut-02"]') == (OTHER_SHA, ["hut-02"])
    assert gate.decide(EVENT="push", SMOKE_SLOTS='["hut-02"]', ACTOR="stranger") == ("", [])
    assert gate.decide(EVENT="workflow_dispatch") == (OTHER_SHA, BOTH)
    for event in ("pull_request", "pull_request_review", "fork", "schedule"):
        assert gate.decide(EVENT=event, LABEL="hardware", LABELED=SHA) == ("", [])


@pytest.fixture
def checkout(lab: Lab) -> Lab:
    """A folder as a job has it once `Install` is done."""
    programs = lab.folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, module in (("hut", "pytest_hut.cli"), ("pytest", "pytest")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    (lab.folder / "hil_tests").mkdir()
    shutil.copy(HW_BOOT_001, lab.folder / "hil_tests")
    return lab


@pytest.fixture
def github(checkout: Lab) -> Iterator[StandIn]:
    with github_stand_in() as stand_in:
        credentials = checkout.home / ".config/hut/credentials"
        credentials.mkdir(mode=0o700, parents=True)
        (credentials / "runner.env").touch(mode=0o600)
        (credentials / "runner.env").write_text(f"GITHUB_TOKEN={TOKEN}\n")
        checkout.write_slots("hut-01")
        with (checkout.folder / "slots.toml").open("a") as file:
            file.write(f'\n[firmware.github]\nrepository = "{REPOSITORY}"\napi_url = "{stand_in.api_url}"\n')
        yield stand_in


def test_the_hardware_job_tests_what_the_upstream_lane_built(checkout: Lab, github: StandIn) -> None:
    github.add_artifact(NAME, SHA, GOOD)
    job = {**checkout.environment, "COMMIT": SHA, "SLOT": "hut-01", "BUILD": "no", "TESTS": "hil_tests"}
    summary = checkout.folder / "summary.md"
    job |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}

    fetched = run_script(commands()["hardware", "Firmware of this commit"], checkout.folder, **job)
    tested = run_script(commands()["hardware", "Tests"], checkout.folder, **job)

    assert fetched.returncode == 0, fetched.stderr
    assert tested.returncode == 0, tested.stdout + tested.stderr
    [report] = checkout.reports()
    assert report.slots[0].firmware is not None and report.slots[0].firmware.commit == SHA
    assert "success: 1 passed" in summary.read_text()
    assert list(checkout.folder.glob("build/hut/*/runner_hil_junit_*.xml"))
    assert TOKEN not in fetched.stdout + fetched.stderr + tested.stdout + tested.stderr


def test_the_hardware_job_without_an_artifact(checkout: Lab, github: StandIn) -> None:
    """It fails at once where GitHub refuses; with `build` it goes on, and pytest builds or says that it cannot."""
    job = {**checkout.environment, "COMMIT": SHA, "SLOT": "hut-01", "TESTS": "hil_tests"}
    credentials = checkout.home / ".config/hut/credentials/runner.env"
    credentials.write_text("GITHUB_TOKEN=wrong\n")

    refused = run_script(commands()["hardware", "Firmware of this commit"], checkout.folder, **job, BUILD="no")
    passed_over = run_script(commands()["hardware", "Firmware of this commit"], checkout.folder, **job, BUILD="yes")
    tested = run_script(commands()["hardware", "Tests"], checkout.folder, **job, BUILD="yes")

    assert refused.returncode == 1
    assert "does not accept the token" in refused.stderr
    assert passed_over.returncode == 0
    assert tested.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--hut-build needs the command that builds" in tested.stdout + tested.stderr


def test_the_upstream_job_skips_hardware(checkout: Lab) -> None:
    script = commands()["upstream", "Hardware tests are skipped here, and say why"]

    done = run_script(script, checkout.folder, **checkout.environment)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout and "the upstream lane has none" in done.stdout
