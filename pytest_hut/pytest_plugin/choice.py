"""Which slots `--hut-slots` means: a list, `all`, or any few of them that are free."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from pytest_hut.bench.load import load_bench, select_slots, virtual_bench
from pytest_hut.bench.models import Bench
from pytest_hut.bench.places import find_config
from pytest_hut.errors import ConfigError
from pytest_hut.pytest_plugin.options import asked_slots


@dataclass(frozen=True)
class Choice:
    """The bench, and the slots of it that may be used."""

    bench: Bench
    slot_ids: list[str]
    count: int
    """How many of them the session takes."""
    any_of: bool
    """Whether it takes whichever are free."""


def choice_from_options(config: pytest.Config) -> Choice:
    """Read the bench and understand `--hut-slots`. Raises ConfigError."""
    asked = asked_slots(config)
    path = find_config(config.getoption("hut_config"), config.invocation_params.dir)
    bench = load_bench(path) if path else None
    alone = [word for word in asked if re.match(r"(all|any)(:|$)", word)]
    if alone and (len(asked) > 1 or not re.fullmatch(r"all|any:\d+(:.+)?", alone[0])):
        raise ConfigError(
            f"--hut-slots={','.join(asked)}: give slots (hut-01,hut-02), or all, or any:N, or any:N:WORD+WORD"
        )
    some = re.fullmatch(r"any:(\d+)(?::(.+))?", asked[0]) if len(asked) == 1 else None
    if bench is None and (some or asked == ["all"] or not config.getoption("hut_virtual")):
        raise ConfigError(
            "--hut-slots needs a slots.toml, and there is none (looked at --hut-config, HUT_CONFIG, ./slots.toml, "
            "~/.config/hut/slots.toml, /etc/hut/slots.toml); copy slots.example.toml, or name slots and add "
            "--hut-virtual"
        )
    if bench is not None and some:
        candidates = _with_words(bench, (some[2] or "").split("+") if some[2] else [])
        count = int(some[1])
        if not 0 < count <= len(candidates):
            fitting = f"{len(candidates)} fit ({', '.join(candidates)})" if candidates else "none fits"
            raise ConfigError(f"--hut-slots={asked[0]}: {count} slots are asked for, but {fitting}; see {path}")
        asked = candidates
    elif bench is not None and asked == ["all"]:
        asked, count = list(bench.slots), len(bench.slots)
    else:
        count = len(asked)
    if config.getoption("hut_virtual"):
        bench = virtual_bench(asked, bench)
    assert bench is not None
    return Choice(
        bench, [slot.id for slot in select_slots(bench, asked, str(path or "--hut-virtual"))], count, bool(some)
    )


def _with_words(bench: Bench, words: list[str]) -> list[str]:
    return [slot.id for slot in bench.slots.values() if set(words) <= {slot.chip, *slot.features}]
