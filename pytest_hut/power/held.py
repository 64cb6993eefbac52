"""The power of a slot whose lock is held: given back to the board on the way in and on the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pytest_hut.bench.models import Bench, Slot
from pytest_hut.errors import RelayError
from pytest_hut.events.types import Event
from pytest_hut.power.open import relay_for
from pytest_hut.power.relay import Relay
from pytest_hut.power.result import PowerResult
from pytest_hut.power.signals import ending_held_back

__tracebackhide__ = True  # A test's author wants to see the test's line, not ours.


@contextlib.contextmanager
def held_power(
    slot: Slot,
    bench: Bench,
    emit: Callable[[Event], None],
    *,
    may_stay_off: bool = False,
    power_first: bool = True,
) -> Iterator[Relay]:
    """Yield the relay of a slot whose lock the caller holds. The board is on inside, and on again afterwards.

    With `may_stay_off` a board that is off at an orderly end stays off until the next holder. Without `power_first` a
    board that is off stays so until the caller, who has come to switch it, does. On the way out SIGINT, SIGTERM and
    SIGHUP wait until power is back, which takes at most the slot's `budget_s`.

    Raises:
        RelayError: the board is off and could not be switched on.
        ConfigError: the credentials of the relay are unusable.
    """
    relay = relay_for(slot, bench, emit)
    give_back = True
    try:
        try:
            if power_first:
                _require_power(slot, relay.restore("an earlier holder ended before power was proved to be back"))
                _require_power(slot, relay.first_look())
        except RelayError:
            give_back = False  # All the time there is was spent on it just now.
            raise
        yield relay
        give_back = not may_stay_off
    finally:
        with ending_held_back():
            try:
                if give_back:
                    _require_power(
                        slot, relay.restore("power was not yet proved to be back when the slot was given back")
                    )
            finally:
                relay.close()


def _require_power(slot: Slot, restored: PowerResult | None) -> None:
    if restored is not None and not restored.ok:
        raise RelayError(f"{slot.id} has no power ({restored.status}): {restored.reason}")
