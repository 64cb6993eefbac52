"""The one place that decides what drives a slot's relay."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pytest_hut.bench.models import Bench, CommandRelay, HomeAssistantRelay, NoRelay, Slot
from pytest_hut.events.types import Event
from pytest_hut.power.driver import RelayDriver
from pytest_hut.power.intent import PowerFile
from pytest_hut.power.relay import Relay


def load_driver(slot: Slot) -> None:
    """Import what drives the relay of a slot: once, for the processes that are forked from this one."""
    modules = {HomeAssistantRelay: "home_assistant", CommandRelay: "command", NoRelay: "manual"}
    import_module(f"pytest_hut.power.{modules[type(slot.relay)]}")


def relay_for(slot: Slot, bench: Bench, emit: Callable[[Event], None]) -> Relay:
    """Return the relay of a slot. Nothing is sent yet. Raises ConfigError when its credentials are unusable."""
    return Relay(slot.id, _driver(slot, bench), slot.power, PowerFile(slot.lock), emit)


def _driver(slot: Slot, bench: Bench) -> RelayDriver:
    # Imported where it is used: only some slots need an HTTP client.
    match slot.relay:
        case HomeAssistantRelay() as relay:
            from pytest_hut.power.home_assistant import HomeAssistantDriver

            server = relay.server or bench.home_assistant
            assert server is not None, "the bench model refuses a relay without a server"
            return HomeAssistantDriver(server, relay.entity)
        case CommandRelay() as relay:
            from pytest_hut.power.command import CommandDriver

            return CommandDriver(relay)
    from pytest_hut.power.manual import NoRelayDriver

    return NoRelayDriver()
