"""`--hut-commit`: the firmware of one commit, there and proved before a board is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_hut.bench.models import Bench, FirmwareTable
from pytest_hut.errors import ConfigError
from pytest_hut.firmware.commits import resolve_commit
from pytest_hut.hub.commit import build_missing, store_of


@dataclass(frozen=True)
class CommitFirmware:
    """What the options say about the firmware of a commit."""

    commit: str
    """The full SHA."""
    places: FirmwareTable
    repository: Path
    build: bool

    @classmethod
    def from_options(cls, config: pytest.Config, bench: Bench) -> CommitFirmware | None:
        """Return None without `--hut-commit`. Raises ConfigError when the options contradict each other."""
        asked: str | None = config.getoption("hut_commit")
        build: bool = config.getoption("hut_build")
        if not asked:
            if build:
                raise ConfigError("--hut-build needs --hut-commit=SHA, or HEAD: it says what to build")
            return None
        if config.getoption("hut_firmware"):
            raise ConfigError("--hut-commit and --hut-firmware both say what to flash; give one of them")
        if build and not bench.firmware.build:
            raise ConfigError(
                '--hut-build needs the command that builds: build = ["idf.py", "build"] in the table [firmware] of '
                "slots.toml"
            )
        here = config.invocation_params.dir
        return cls(resolve_commit(asked, here), bench.firmware, here, build)

    @contextlib.contextmanager
    def kept_for(self, chips: Iterable[str], evidence: Path) -> Iterator[None]:
        """Have the firmware for all these chips, proved, and keep it from being collected while inside.

        Raises:
            FirmwareError: it is missing (and could not be built, where that was asked for), or damaged.
        """
        store = store_of(self.places)
        with contextlib.ExitStack() as kept:
            for chip in dict.fromkeys(chips):
                if self.build:
                    log = evidence / f"firmware_build_{chip}.log"
                    build_missing(store, self.places, self.repository, self.commit, chip, log)
                kept.enter_context(store.lease(self.commit, chip))
                store.load(self.commit, chip)
            yield
