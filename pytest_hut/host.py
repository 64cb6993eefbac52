"""Facts about the user and the host that must be had anywhere, also in a container without a user database."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def user_name() -> str:
    """Return the user's name, or `uid 1234` where the host does not know one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def home_dir() -> Path:
    """Return the user's home, or a folder of the user's own below the temporary one where there is no home."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"hut-{os.getuid()}"
