"""The one place that decides what drives a slot's relay."""

from __future__ import annotations

from collections.abc import Callable

from pytest_hut.bench.models import Bench, HomeAssistantRelay, Slot
from pytest_hut.events.types import Event
from pytest_hut.power.driver import RelayDriver
from pytest_hut.power.intent import PowerFile
from pytest_hut.power.relay import NoRelayDriver, Relay


def relay_for(slot: Slot, bench: Bench, emit: Callable[[Event], None]) -> Relay:
    """Return the relay of a slot. Nothing is sent yet. Raises ConfigError when its credentials are unusable."""
    return Relay(slot.id, _driver(slot, bench), slot.power, PowerFile(slot.lock), emit)


def _driver(slot: Slot, bench: Bench) -> RelayDriver:
    if not isinstance(slot.relay, HomeAssistantRelay):
        return NoRelayDriver()
    # Imported where it is used: only some slots need an HTTP client.
    from pytest_hut.power.home_assistant import HomeAssistantDriver

    server = slot.relay.server or bench.home_assistant
    assert server is not None, "the bench model refuses a relay without a server"
    return HomeAssistantDriver(server, slot.relay.entity)
