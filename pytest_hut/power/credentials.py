"""Read a secret from the credentials folder; the secret is returned and goes nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_hut.bench.places import user_config_dir
from pytest_hut.errors import ConfigError


def default_credentials_file() -> Path:
    """Return the runner role's file in the user's credentials folder."""
    return user_config_dir() / "credentials" / "runner.env"


def read_secret(path: Path, name: str) -> str:
    """Return the value of `name` from a file of `NAME=value` lines.

    Raises:
        ConfigError: the file is missing, open to others (folder more than 0700, file more than 0600), belongs to
            another user, or has no such line. The text never contains a value.
    """
    try:
        folder, file = path.parent.stat(), path.stat()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); make it with a line {name}=... "
            "(folder mode 0700, file mode 0600)"
        ) from None
    for what, status, limit in ((path.parent, folder, 0o700), (path, file, 0o600)):
        mode = stat.S_IMODE(status.st_mode)
        if mode & ~limit:
            raise ConfigError(
                f"{what} has mode {mode:04o}, so others could read secrets; run: chmod {limit:04o} {what}"
            )
        if status.st_uid not in (os.getuid(), 0):
            raise ConfigError(f"{what} belongs to another user; secrets are read only from one's own files")
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.strip() == name and value.strip():
            return value.strip().strip("\"'")
    raise ConfigError(f"{path} has no line {name}=...; add it")
