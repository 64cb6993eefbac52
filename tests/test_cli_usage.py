"""`hut` and those who use it wrongly, or want little of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cli_rig import HUT, ONE_ERROR, PATIENCE_S, hut
from lab import Lab

import pytest_hut

MISTAKES = {
    "nothing": ([], ["COMMAND", "hut --help"]),
    "unknown command": (["flahs"], ["flahs", "slots", "flash"]),
    "no firmware": (["flash", "hut-01"], ["FIRMWARE"]),
    "slot id": (["flash", "../x", "demo"], ["../x", "slot id", "hut-01"]),
    "slot id with a line end": (["monitor", "hut\n01"], ["slot id"]),
    "unknown slot": (["monitor", "hut-09"], ["hut-09", "slots.toml", "hut-01"]),
    "missing firmware": (["flash", "hut-01", "nowhere.bin"], ["nowhere.bin", "no such file"]),
    "demo on a real board": (["flash", "hut-02", "demo"], ["hut-02", "virtual"]),
    "no time": (["monitor", "hut-01", "--seconds", "soon"], ["--seconds", "soon"]),
    "negative time": (["lock", "hut-01", "--timeout", "-1", "--", "true"], ["-1", "0 or more"]),
    "endless time": (["flash", "hut-01", "demo", "--lock-timeout", "inf"], ["inf"]),
    "no command to lock for": (["lock", "hut-01"], ["--", "command"]),
    "command without dashes": (["lock", "hut-01", "make", "flash"], ["--", "command"]),
    "option of lock": (["lock", "hut-01", "--quick", "--", "true"], ["--quick"]),
    "chip": (["virtual", "hut-01", "--chip", "esp99"], ["--chip=esp99", "esp32c6"]),
    "no TCP port": (["virtual", "--rfc2217-port", "99999"], ["99999", "65535"]),
    "too few TCP ports": (["virtual", "hut-03", "hut-04", "--rfc2217-port", "65535"], ["65535"]),
    "virtual slot id": (["virtual", "Board 1"], ["Board 1", "slot id"]),
    "named config": (["slots", "--config", "other.toml"], ["--config names other.toml", "slots.example.toml"]),
    "bad config": (["slots", "--config", "bad.toml"], ["bad.toml", "prot", "known here"]),
    "bad config that may name the lock": (["lock", "hut-01", "--config", "bad.toml", "--", "true"], ["bad.toml"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_line(lab: Lab, arguments: list[str], words: list[str]) -> None:
    lab.write_slots("hut-01")
    with (lab.folder / "slots.toml").open("a") as file:
        file.write('[slots.hut-02]\nport = "/dev/serial/by-id/nothing"\n')
    (lab.folder / "bad.toml").write_text('[slots.hut-01]\nprot = "/dev/serial/by-id/x"  # and no lock_path\n')
    done = hut(lab, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert ONE_ERROR.fullmatch(done.stderr), done.stderr
    for word in words:
        assert word in done.stderr
    assert not (lab.folder / "build").exists(), "a job was begun"


def test_without_a_bench_it_says_where_one_is_looked_for(lab: Lab) -> None:
    for arguments in (["slots"], ["flash", "hut-01", "demo"], ["monitor", "hut-01"]):
        done = hut(lab, *arguments)
        assert done.returncode == 2
        assert ONE_ERROR.fullmatch(done.stderr)
        assert "--config, HUT_CONFIG, ./slots.toml" in done.stderr


def test_help_explains_the_exit_codes(lab: Lab) -> None:
    for arguments in (["--help"], ["lock", "--help"], ["lock", "hut-01", "--help"], ["flash", "-h"]):
        done = hut(lab, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: hut" in done.stdout
        assert "4    somebody else holds the slot" in done.stdout


def test_version(lab: Lab) -> None:
    assert hut(lab, "--version").stdout == f"hut {pytest_hut.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["slots"], ["slots", "--json"]], ids=" ".join)
def test_a_reader_that_went_away_is_no_trouble(lab: Lab, arguments: list[str]) -> None:
    lab.write_slots("hut-01")
    # Unbuffered, argparse itself meets the broken pipe, and says nothing either.
    environment = {name: value for name, value in lab.environment.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*HUT, *arguments],
            cwd=lab.folder,
            env=environment,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


HEAVY = {"pydantic", "esptool", "requests", "rich", "serial", "pexpect", "pytest"}


@pytest.mark.parametrize("arguments", [["--help"], ["lock", "hut-01", "--", "true"]], ids=" ".join)
def test_nothing_heavy_is_loaded_for_what_is_light(lab: Lab, arguments: list[str]) -> None:
    (lab.folder / "slots.toml").write_text('[slots.hut-01]\nport = "/dev/serial/by-id/x"\n')
    program = (
        "import sys\nfrom pathlib import Path\nfrom pytest_hut.bench import ids\nfrom pytest_hut.cli import main\n"
        f"ids.LOCK_FOLDER = Path({str(lab.folder)!r})\n"
        f"try: code = main({arguments!r})\nexcept SystemExit as end: code = end.code\n"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=lab.folder, env=lab.environment, capture_output=True, text=True, check=True
    )
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert "pytest_hut" in loaded
    assert not HEAVY & set(loaded)
