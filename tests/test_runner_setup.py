"""The cloud-init file of the runner VM: well formed, and what it installs works as far as that needs no VM."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from lab import REPOSITORY
from ruamel.yaml import YAML

from pytest_hut.bench.ids import default_lock_path
from pytest_hut.cli.arguments import parse

FILE = REPOSITORY / "deploy/cloud-init.yaml"
TOKEN = "AREGISTRATIONTOKEN"


def cloud_config() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(FILE)
    return content


def written() -> dict[str, str]:
    return {file["path"]: file["content"] for file in cloud_config()["write_files"]}


def test_cloud_init_knows_it_for_its_own() -> None:
    assert FILE.read_text().startswith("#cloud-config\n")
    content = cloud_config()
    assert set(content) == {"package_update", "packages", "users", "write_files", "runcmd", "power_state"}
    assert content["users"][0] == "default"
    assert content["users"][1]["groups"] == ["dialout", "plugdev"]
    assert all(isinstance(word, str) for command in content["runcmd"] for word in command)


def test_the_lock_files_are_those_of_the_slots(tmp_path: Path) -> None:
    lines = [line.split() for line in written()["/etc/tmpfiles.d/hut.conf"].splitlines() if not line.startswith("#")]

    assert [line[0] for line in lines] == ["f", "f"] and {line[2] for line in lines} == {"0666"}
    expected = {str(default_lock_path(slot)).replace("/var/lock/", "/run/lock/") for slot in ("hut-01", "hut-02")}
    assert {line[1] for line in lines} == expected


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("systemd-tmpfiles") is None, reason="needs root and systemd")
def test_systemd_makes_the_lock_files(tmp_path: Path) -> None:
    config = tmp_path / "hut.conf"
    config.write_text(written()["/etc/tmpfiles.d/hut.conf"])

    subprocess.run(["systemd-tmpfiles", "--create", f"--root={tmp_path / 'root'}", str(config)], check=True)

    lock = tmp_path / "root/run/lock/hut-01.lock"
    assert lock.stat().st_mode & 0o777 == 0o666


def test_the_services_run_commands_that_there_are() -> None:
    for path, text in written().items():
        if path.endswith(".service"):
            assert "User=ci" in text
            [command] = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
            program, *arguments = command.split()
            assert program == "/opt/hut/bin/hut"
            if arguments[0] == "firmware":
                options = parse(arguments)
                assert (options.action, options.days, options.size) == ("gc", 30, 10 << 30)


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """A folder with the script, and stand-ins for what it calls that needs the network or root."""
    script = tmp_path / "hut-register-runner"
    script.write_text(written()["/usr/local/sbin/hut-register-runner"])
    programs = tmp_path / "programs"
    programs.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    fake(inside, "config.sh", f'echo "config $* token=$ACTIONS_RUNNER_INPUT_TOKEN" >> {tmp_path}/calls')
    fake(inside, "svc.sh", f'echo "svc $*" >> {tmp_path}/calls')
    archive = tmp_path / "runner.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in inside.iterdir():
            tar.add(path, path.name)
    name = "actions-runner-linux-x64-2.330.0.tar.gz"
    assets = [
        {"name": "actions-runner-osx-x64-2.330.0.tar.gz", "browser_download_url": "https://no", "digest": "sha256:0"},
        {
            "name": name,
            "browser_download_url": "https://example.com/runner",
            "digest": f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}",
        },
    ]
    (tmp_path / "release.json").write_text(json.dumps({"assets": assets}))
    fake(
        programs,
        "curl",
        'out=$3; case $4 in *releases/latest) cp "$VM/release.json" "$out" ;; '
        'https://example.com/runner) cp "$VM/runner.tar.gz" "$out" ;; *) exit 22 ;; esac',
    )
    fake(programs, "dpkg", "echo amd64")
    fake(programs, "chown", "true")
    fake(programs, "runuser", 'shift 3; exec "$@"')
    return tmp_path


def register(vm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{vm / 'programs'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-x", str(vm / "hut-register-runner"), *arguments],
        input=f"{TOKEN}\n",
        env={**os.environ, "PATH": path, "VM": str(vm), "HUT_RUNNERS": str(vm / "runners")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_a_runner_is_registered_with_the_label_of_its_slot(vm: Path) -> None:
    done = register(vm, "https://github.com/owner/product", "hut-01")

    assert done.returncode == 0, done.stderr
    config, *service = (vm / "calls").read_text().splitlines()
    assert "--labels esp32-hut-01" in config and "--url https://github.com/owner/product" in config
    assert config.endswith(f"token={TOKEN}")
    assert TOKEN not in config.removesuffix(f"token={TOKEN}")
    assert service == ["svc install ci", "svc start"]


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_a_runner_that_came_damaged_is_not_unpacked(vm: Path) -> None:
    with (vm / "runner.tar.gz").open("ab") as file:
        file.write(b"more")

    assert register(vm, "https://github.com/owner/product", "hut-01").returncode != 0
    assert not (vm / "calls").exists()
    assert not (vm / "runners/hut-01/config.sh").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["https://github.com/o/r"], ["x", "hut-01"], ["https://github.com/o/r", "a b"]]
)
def test_wrong_arguments_are_told(vm: Path, arguments: list[str]) -> None:
    done = register(vm, *arguments)

    assert done.returncode == 2 and "usage: hut-register-runner" in done.stderr
