"""Install Home Assistant into a folder of its own, once, outside any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

VERSION = "2024.3.3"
"""The last release that runs on Python 3.11 as well as on 3.12."""
PINS = (
    f"homeassistant=={VERSION}",
    # What its default integrations import, and what its own constraints leave open but newer releases broke.
    "josepy<2",
    "home-assistant-frontend==20240307.0",
    "Pillow==10.2.0",
    "securetar==2024.2.1",
    "psutil-home-assistant==0.0.1",
    "SQLAlchemy==2.0.27",
    "fnv-hash-fast==0.5.0",
    "janus==1.0.0",
    "pyotp==2.8.0",
    "PyQRCode==1.2.1",
)
PYTHONS = ("3.11", "3.12")
INSTALL_S = 900


class NotInstallable(Exception):
    """Home Assistant cannot be had here; the text says why."""


def installed_python() -> Path:
    """Return the interpreter of an environment that has Home Assistant, installing it first if need be.

    Raises NotInstallable.
    """
    interpreter, version = _find_python()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-hut"
    folder = cache / f"home-assistant-{VERSION}-py{version}"
    complete = folder / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # What an installation left that was cut short.
            _install(interpreter, folder)
            complete.touch()
    return folder / "bin" / "python"


def _find_python() -> tuple[str, str]:
    """Return an interpreter that Home Assistant runs on, and its version."""
    found = [shutil.which(f"python{version}") for version in PYTHONS]
    for candidate in (sys.executable, *(path for path in found if path)):
        probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() in PYTHONS:
            return candidate, done.stdout.strip()
    raise NotInstallable(f"Home Assistant {VERSION} needs Python 3.11 or 3.12 with venv, and there is none on PATH")


def _install(interpreter: str, folder: Path) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([interpreter, "-m", "venv", str(folder)])
    # By itself first: its wheel brings the constraints for everything else.
    _run([*pip, "--no-deps", PINS[0]])
    [constraints] = folder.glob("lib/python3*/site-packages/homeassistant/package_constraints.txt")
    _run([*pip, "--constraint", str(constraints), *PINS])


def _run(command: list[str]) -> None:
    # A venv of whoever runs the tests must not leak into this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstallable(f"{' '.join(command[:4])} took longer than {INSTALL_S} s") from None
    if done.returncode != 0:
        raise NotInstallable(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-2000:]}")
