"""The host: who we are on it, how much room there is, what is installed."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from pytest_hut.doctor.finding import Finding
from pytest_hut.host import user_name
from pytest_hut.recording.job import commit_of

DISTRIBUTION = "pytest-hut"

LEAST_FREE_BYTES = 1024**3
"""Console logs of a soak run, and copies of firmware, need room."""


def who_and_where() -> Finding:
    """Host, user, groups and uptime: nothing here can be wrong, but it says where the rest is true."""
    groups = ", ".join(sorted({_group_name(number) for number in {os.getgid(), *os.getgroups()}}))
    words = [f"{socket.gethostname()} ({platform.system()} {platform.release()})", f"user {user_name()} in {groups}"]
    try:
        words.append(f"up {_in_words(float(Path('/proc/uptime').read_text(encoding='ascii').split()[0]))}")
    except (OSError, ValueError):
        words.append("uptime unknown")
    return Finding("host", True, ", ".join(words))


def room_for(what: str, folder: Path, least_bytes: int = LEAST_FREE_BYTES) -> Finding:
    """Whether files can be made below `folder`, which need not be there yet, and there is room for them."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    topic = f"disk {what}"
    if not there.is_dir():
        return Finding(topic, False, f"{there} is not a folder; remove it, or choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(topic, False, f"{there} cannot be written to; give this user access, or choose another place")
    usage = shutil.disk_usage(there)
    room = f"{usage.free / 1024**3:.1f} of {usage.total / 1024**3:.1f} GiB free for {folder}"
    if usage.free < least_bytes:
        return Finding(topic, False, f"only {room}; remove old evidence, or choose another disk")
    return Finding(topic, True, room)


def git_here(folder: Path) -> Finding:
    """Whether evidence made in `folder` can name its commit."""
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return Finding("git", False, "the git command does not work; install git, or reports cannot name their commit")
    commit = commit_of(folder)
    where = f"commit {commit}" if commit != "none" else f"{folder} is no work tree, so reports made here name no commit"
    return Finding("git", True, f"{done.stdout.strip()}, {where}")


def versions() -> Iterator[Finding]:
    """Python, this package, and each package it needs."""
    try:
        ours = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Finding("versions", False, f"{DISTRIBUTION} is not installed; run: pip install {DISTRIBUTION}")
        return
    yield Finding("python", True, f"{platform.python_version()} at {sys.executable}")
    yield Finding(DISTRIBUTION, True, ours.version)
    for text in ours.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _about_package(requirement)


def _about_package(requirement: Requirement) -> Finding:
    name = requirement.name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, f"is not installed; run: pip install '{requirement}'")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, False, f"{version} does not fit; run: pip install '{requirement}'")
    return Finding(name, True, version)


def _group_name(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _in_words(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes % 1440 // 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"
