"""Where the suite's own files are on a host: configuration and state."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_hut.errors import ConfigError
from pytest_hut.host import home_dir

ENVIRONMENT_VARIABLE = "HUT_CONFIG"


def user_config_dir() -> Path:
    """Return the suite's folder below the user's configuration folder (XDG base directories)."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home_dir() / ".config") / "hut"


def user_state_dir() -> Path:
    """Return the suite's folder below the user's state folder (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home_dir() / ".local" / "state") / "hut"


def user_cache_dir() -> Path:
    """Return the suite's folder below the user's cache folder (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home_dir() / ".cache") / "hut"


def find_config(option: str | None, folder: Path) -> Path | None:
    """Return the configuration file to read, or None if there is none.

    Looked at in order: `option` (`--hut-config`), the environment's HUT_CONFIG, `slots.toml` in `folder`, in the
    user's configuration folder, `/etc/hut/slots.toml`. The first two name one file, so it has to exist.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    for source, named in (("--hut-config", option), (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE))):
        if named:
            path = Path(named).expanduser()
            if not path.is_file():
                raise ConfigError(f"{source} names {path}, but there is no such file; copy slots.example.toml there")
            return path
    candidates = (folder / "slots.toml", user_config_dir() / "slots.toml", Path("/etc/hut/slots.toml"))
    return next((path for path in candidates if path.is_file()), None)
