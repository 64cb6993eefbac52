"""A slot whose power is switched by hand, or not at all."""

from __future__ import annotations

from typing import NoReturn

from pytest_hut.power.driver import RelayRefused


class NoRelayDriver:
    """Cannot do anything, and says so."""

    name = "none"

    def state(self, within_s: float) -> str | None:
        """Always raises RelayRefused."""
        del within_s
        _refuse()

    def command(self, on: bool, within_s: float) -> None:
        """Always raises RelayRefused."""
        del on, within_s
        _refuse()

    def close(self) -> None:
        """Nothing is open."""


def _refuse() -> NoReturn:
    raise RelayRefused("the slot has no relay; give it one in slots.toml, or switch its power by hand")
