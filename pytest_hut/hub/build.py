"""Build the firmware of a commit from that commit and nothing else: in a git worktree of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.elf_files import elf_files_of
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.sources import load_firmware

_GIT_S = 600
CHIP_VARIABLE = "HUT_CHIP"
COMMIT_VARIABLE = "HUT_COMMIT"


def build_commit(
    repository: Path, commit: str, chip: str, command: Sequence[str], output: Path, timeout_s: float, log: Path
) -> tuple[ImageSet, list[bytes]]:
    """Check `commit` out into a new worktree, run `command` there, and return what it made in `output`.

    `output` is relative to the worktree. The command gets the chip and the commit in HUT_CHIP and HUT_COMMIT; what it
    prints goes to the file `log`. Nothing of the user's own work tree is read or changed.

    Raises:
        FirmwareError: there is no such commit, the command fails or takes more than `timeout_s`, or what it made
            cannot be used.
    """
    with _worktree(repository, commit) as tree:
        _run(command, tree, {CHIP_VARIABLE: chip, COMMIT_VARIABLE: commit}, timeout_s, log)
        made = tree / output
        images = load_firmware(made, chip)
        source = f"built from {commit} by {command[0]}"
        return replace(images, source=source), elf_files_of(images, made)


@contextlib.contextmanager
def _worktree(repository: Path, commit: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hut-build-"))
    tree = folder / "tree"
    try:
        _git(repository, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git(repository, "worktree", "remove", "--force", str(tree))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _git(repository: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
            env=_environment({}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirmwareError(f"git cannot be run in {repository} ({error})") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FirmwareError(f"git {arguments[0]} {arguments[1]} failed in {repository}: {reason}")


def _run(command: Sequence[str], tree: Path, extra: dict[str, str], timeout_s: float, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=_environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise FirmwareError(f"the build command {command[0]!r} cannot be run: {error.strerror}") from None
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # It is not reaped yet, so the number is still its own.
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise FirmwareError(
                    f"the build took more than {timeout_s:g} s and was ended; its output is {log}"
                ) from None
            raise
    if code != 0:
        raise FirmwareError(f"the build command {command[0]!r} ended with exit code {code}; its output is {log}")


def _environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the environment without what would make git look at another repository."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, **extra}
