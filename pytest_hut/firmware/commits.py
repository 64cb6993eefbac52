"""Which commit is meant."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pytest_hut.errors import ConfigError

_FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT_S = 30


def is_full_sha(text: object) -> bool:
    """Whether this is a complete commit SHA (SHA-1 or SHA-256) in lower-case hex."""
    return isinstance(text, str) and _FULL_SHA.fullmatch(text) is not None


def resolve_commit(text: str, folder: Path) -> str:
    """Return the full SHA that `text` means: itself, or what git makes of `HEAD`, a branch or a short SHA in `folder`.

    Raises:
        ConfigError: it names no commit there.
    """
    if is_full_sha(text.lower()):
        return text.lower()
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}"],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = ""
    else:
        found = done.stdout.strip()
    if not is_full_sha(found):
        raise ConfigError(
            f"{text!r} is no commit of the git repository at {folder}; give HEAD, or a full SHA of 40 hex digits"
        )
    return found
