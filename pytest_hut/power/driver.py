"""The seam under the relay state machine: what a kind of relay has to be able to do."""

from __future__ import annotations

from typing import Protocol

from pytest_hut.errors import RelayError


class RelayTimeout(RelayError):
    """The relay, or what drives it, did not answer in time: the command may still happen later."""


class RelayRefused(RelayError):
    """Trying again cannot help: wrong token, unknown entity, no relay at all."""


class RelayDriver(Protocol):
    """Talks to one relay. Methods raise RelayError, RelayTimeout or RelayRefused, and nothing else."""

    name: str
    """What people call the relay, e.g. its entity id."""

    def check(self) -> None:
        """Raise unless the relay can be commanded and its state believed right now."""

    def command(self, on: bool) -> None:
        """Ask for a state. Returning proves nothing."""

    def state(self) -> str:
        """Return what the relay says it is: `on`, `off`, or another word such as `unavailable`."""

    def close(self) -> None:
        """Let go of connections."""
