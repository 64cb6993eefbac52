"""The seam under the relay state machine: what a kind of relay has to be able to do."""

from __future__ import annotations

from typing import Protocol

from pytest_hut.errors import RelayError


class RelayTimeout(RelayError):
    """The relay, or what drives it, did not answer in time: the command may still happen later."""


class RelayUnknown(RelayError):
    """Whoever drives the relays is there, but knows no such relay (any more)."""


class RelayRefused(RelayError):
    """Trying again cannot help, or does harm: wrong token, no such program, no relay at all."""


class RelayDriver(Protocol):
    """Talks to one relay. Methods raise RelayError or one of its kinds above, and nothing else."""

    name: str
    """What people call the relay, e.g. its entity id."""

    def state(self, within_s: float) -> str | None:
        """Return what the relay says it is: `on`, `off`, or another word such as `unavailable`.

        Raises RelayError when what it says cannot be believed right now. None: this kind of relay never tells.
        """

    def command(self, on: bool, within_s: float) -> None:
        """Ask for a state, taking at most `within_s` seconds. Returning proves nothing."""

    def close(self) -> None:
        """Let go of connections."""
