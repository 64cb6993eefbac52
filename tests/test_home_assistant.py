"""Relays against a real Home Assistant: what it does to commands, what becomes of the board, and what is told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from home_assistant.install import NotInstallable, installed_python
from home_assistant.proxy import CountingProxy
from home_assistant.server import HomeAssistantServer

from pytest_hut.bench.models import Bench, HomeAssistantRelay, PowerTimes, Slot
from pytest_hut.errors import ConfigError, RelayError
from pytest_hut.events.types import Event, PowerCycled, Recovered
from pytest_hut.power.held import held_power
from pytest_hut.power.home_assistant import HomeAssistantDriver
from pytest_hut.power.intent import PowerFile
from pytest_hut.power.relay import Relay
from pytest_hut.power.result import READ_BACK, PowerResult

pytestmark = pytest.mark.home_assistant

REQUIRED = "HUT_REQUIRE_HOME_ASSISTANT"
CONTACTS = ("good", "stuck", "lagging", "slow", "late", "raising", "present", "unavailable", "lamp", "direct")
SLACK_S = 2.0
"""A reading that has begun when the time for off, or that for on, is over may take a second more."""


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter that has Home Assistant; skips where it cannot be had, unless it is required."""
    try:
        return installed_python()
    except NotInstallable as error:
        if os.environ.get(REQUIRED):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def only_server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeAssistantServer]:
    server = HomeAssistantServer(python, tmp_path_factory.mktemp("home-assistant"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(only_server: HomeAssistantServer) -> HomeAssistantServer:
    """The server, RUNNING, with every relay on."""
    if not only_server.is_alive:
        only_server.start()
    for contact in CONTACTS:
        only_server.set(contact, True)
    return only_server


@pytest.fixture
def proxy(server: HomeAssistantServer) -> Iterator[CountingProxy]:
    with CountingProxy(server.port) as proxy:
        yield proxy


@dataclass
class Wired:
    """A relay that hangs on the server, as a held slot has it."""

    server: HomeAssistantServer
    folder: Path
    entity: str
    times: PowerTimes
    url: str | None = None
    timeout_s: float = 10.0
    credentials: Path | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def record(self) -> PowerFile:
        return PowerFile(self.folder / "hut-01.lock")

    def relay(self) -> Relay:
        settings = self.server.settings(self.url, self.credentials, self.timeout_s)
        driver = HomeAssistantDriver(settings, self.entity)
        return Relay("hut-01", driver, self.times, self.record, self.events.append)

    def cycle(self) -> PowerResult:
        """Cycle once, and check what holds in every case."""
        result = self.relay().cycle()
        assert result.status in ("ok", "timeout", "ha_error")
        assert result.seconds <= self.times.budget_s + self.times.off_s + SLACK_S, result
        assert result.ok or result.reason
        assert [event.status for event in self.events if isinstance(event, PowerCycled)] == [result.status]
        return result

    def recoveries(self) -> list[str]:
        return [event.what for event in self.events if isinstance(event, Recovered)]


Wire = Callable[..., Wired]


@pytest.fixture
def wire(server: HomeAssistantServer, tmp_path: Path) -> Wire:
    def wire(entity: str, *, url: str | None = None, timeout_s: float = 10, **times: float) -> Wired:
        quick = {"off_s": 0.2, "settle_timeout_s": 2.0, "stable_s": 0.3, "watch_s": 4.0, "budget_s": 12.0, **times}
        return Wired(server, tmp_path, entity, PowerTimes.model_validate(quick), url, timeout_s)

    return wire


def seen(result: PowerResult) -> list[str]:
    return [state.state for state in result.states]


@pytest.mark.parametrize("entity", ["switch.good", "light.lamp", "input_boolean.direct"])
def test_a_cycle(server: HomeAssistantServer, wire: Wire, entity: str) -> None:
    wired = wire(entity)

    result = wired.cycle()

    assert (result.status, result.attempts, seen(result)) == ("ok", 2, ["on", "off", "on"]), result
    assert result.proved_by == (READ_BACK,)
    assert result.reason == "" and result.watched_s == 0
    assert [state.at_s for state in result.states] == sorted(state.at_s for state in result.states)
    assert server.state(entity) == "on"
    record = wired.record.read()
    assert record is not None and not record.off_intended and record.last_cycle_end > 0


@pytest.mark.parametrize("entity", ["switch.nobody_knows", "light.good", "switch.lamp"])
def test_an_entity_that_is_missing_or_of_another_domain(server: HomeAssistantServer, wire: Wire, entity: str) -> None:
    result = wire(entity).cycle()

    assert (result.status, result.attempts, result.states) == ("ha_error", 0, ())
    assert result.reason.startswith("nothing was switched") and f"knows no {entity}" in result.reason
    assert result.seconds < 1
    assert server.state("switch.good") == server.state("light.lamp") == "on"


def test_a_domain_that_is_no_relay_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="entity"):
        HomeAssistantRelay(driver="home-assistant", entity="automation.bench")


def test_an_unavailable_relay(server: HomeAssistantServer, wire: Wire) -> None:
    server.set("present", False)

    result = wire("switch.unavailable").cycle()

    assert (result.status, result.attempts, seen(result)) == ("ha_error", 0, ["unavailable"])
    assert result.reason.startswith("nothing was switched") and "'unavailable'" in result.reason
    assert server.state("input_boolean.unavailable") == "on"


def test_a_relay_that_becomes_unavailable_while_off(server: HomeAssistantServer, wire: Wire) -> None:
    wired = wire("switch.unavailable", budget_s=3)

    result = wired.relay().cycle(while_off=lambda: server.set("present", False))

    assert (result.status, seen(result)) == ("ha_error", ["on", "off", "unavailable"])
    assert "THE BOARD OF hut-01 MAY BE OFF, switch switch.unavailable on by hand" in result.reason
    assert wired.record.read().off_intended
    server.set("present", True)
    restored = wired.relay().restore("a test")
    assert restored.ok and server.state("switch.unavailable") == "on"
    assert wired.recoveries() == ["power restored"]


def test_a_stuck_relay(server: HomeAssistantServer, wire: Wire) -> None:
    result = wire("switch.stuck", settle_timeout_s=0.5, watch_s=1).cycle()

    assert (result.status, result.attempts, seen(result)) == ("timeout", 4, ["on"])
    assert "switching off failed" in result.reason and "still says 'on'" in result.reason
    assert result.proved_by == ()
    assert 0 < result.watched_s <= 1.5, "what it was told may still happen"
    assert server.state("switch.stuck") == "on"


def test_a_relay_that_is_stuck_off(server: HomeAssistantServer, wire: Wire) -> None:
    server.set("stuck", False)
    wired = wire("switch.stuck", settle_timeout_s=0.5)

    result = wired.cycle()

    assert (result.status, seen(result)) == ("timeout", ["off"])
    assert "THE BOARD OF hut-01 MAY BE OFF, switch switch.stuck on by hand" in result.reason
    assert wired.record.read().off_intended, "the next holder has to try again"


def test_a_relay_that_lags(server: HomeAssistantServer, wire: Wire) -> None:
    result = wire("switch.lagging", settle_timeout_s=4).cycle()

    assert (result.status, result.attempts, seen(result)) == ("ok", 2, ["on", "off", "on"]), result
    assert result.switch_off_s > 1.4 and result.switch_on_s > 1.4
    assert server.state("switch.lagging") == "on"


def test_a_slow_relay_is_waited_for(server: HomeAssistantServer, wire: Wire) -> None:
    result = wire("switch.slow", budget_s=20).cycle()

    assert (result.status, result.attempts, seen(result)) == ("ok", 2, ["on", "off", "on"]), result
    assert result.watched_s == 0, "its answer says that nothing is under way any more"


def test_a_slow_relay_with_an_impatient_client(server: HomeAssistantServer, wire: Wire) -> None:
    """The commands go on after the client gave up; their effect is found by reading back."""
    result = wire("switch.slow", timeout_s=0.5, settle_timeout_s=4, budget_s=20, watch_s=4).cycle()

    assert (result.status, result.attempts, seen(result)) == ("ok", 2, ["on", "off", "on"]), result
    assert "did not answer within 0.5 s" in result.reason
    assert server.state("switch.slow") == "on"


def test_a_command_that_blocks_leaves_time_to_switch_on(server: HomeAssistantServer, wire: Wire) -> None:
    wired = wire("switch.slow", budget_s=4, settle_timeout_s=0.3)

    result = wired.cycle()

    assert result.status == "timeout"
    assert result.switch_off_s <= 2 + SLACK_S
    assert "MAY BE OFF" in result.reason or server.state("switch.slow") == "on"


def test_a_late_off_is_noticed_and_undone(server: HomeAssistantServer, wire: Wire) -> None:
    wired = wire("switch.late", timeout_s=0.4, settle_timeout_s=0.4, max_tries=1)

    result = wired.cycle()

    assert (result.status, result.late_offs, seen(result)) == ("timeout", 1, ["on", "off", "on"]), result
    assert result.watched_s > 2, "the watch ends only when no off can be under way any more"
    assert wired.recoveries() == ["late off undone"]
    assert server.state("switch.late") == "on"
    assert not wired.record.read().off_intended


def test_a_late_off_of_a_killed_holder_is_noticed_by_the_next(server: HomeAssistantServer, wire: Wire) -> None:
    """Its off is under way when it dies; power is restored at once, and again when that off arrives."""
    wired = wire("switch.late", timeout_s=0.4, settle_timeout_s=0.4, max_tries=1)
    assert wired.relay().off().status == "timeout"

    result = wired.relay().restore("a test")

    assert (result.status, result.late_offs, seen(result)) == ("ok", 1, ["on", "off", "on"])
    assert wired.recoveries() == ["late off undone", "power restored"]
    assert server.state("switch.late") == "on"


def test_a_relay_that_raises(server: HomeAssistantServer, wire: Wire) -> None:
    result = wire("switch.raising", stable_s=0.1, watch_s=0.5).cycle()

    assert (result.status, result.attempts, seen(result)) == ("ha_error", 4, ["on"])
    assert "answered 500" in result.reason
    assert server.state("switch.raising") == "on"


def test_a_wrong_token_is_sent_once(
    server: HomeAssistantServer, proxy: CountingProxy, wire: Wire, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong" / "runner.env"
    wrong.parent.mkdir(mode=0o700)
    wrong.touch(mode=0o600)
    wrong.write_text("HOME_ASSISTANT_TOKEN=not-the-token\n")
    wired = wire("switch.good", url=proxy.url)
    wired.credentials = wrong
    relay = wired.relay()

    results = [relay.cycle(), relay.on(), relay.off(), relay.look()]

    assert [result.status for result in results] == ["ha_error"] * 4
    assert proxy.requests == ["/api/core/state"]
    assert "refuses the token (401)" in results[0].reason
    assert "not-the-token" not in str(results) + str(wired.events)
    assert wire("switch.good").cycle().ok, "the address must not be banned"


def test_the_server_is_down_before_the_off(server: HomeAssistantServer, wire: Wire) -> None:
    server.stop()
    wired = wire("switch.good", settle_timeout_s=1)

    result = wired.cycle()

    assert (result.status, result.attempts, result.states) == ("ha_error", 0, ())
    assert result.reason.startswith("nothing was switched") and "cannot be reached" in result.reason
    assert not wired.record.path.exists(), "nobody owes anything"
    server.start()
    assert server.state("switch.good") == "on"


def test_the_server_goes_down_during_the_off(server: HomeAssistantServer, proxy: CountingProxy, wire: Wire) -> None:
    proxy.when("/turn_off", server.stop)
    wired = wire("switch.good", url=proxy.url, budget_s=3, settle_timeout_s=0.5)

    result = wired.cycle()

    assert result.status == "ha_error"
    assert "THE BOARD OF hut-01 MAY BE OFF, switch switch.good on by hand" in result.reason
    server.start()
    restored = wired.relay().restore("a test")
    assert restored.ok and server.state("switch.good") == "on"


def test_the_server_goes_down_after_the_off(server: HomeAssistantServer, wire: Wire, tmp_path: Path) -> None:
    wired = wire("switch.good", budget_s=2, settle_timeout_s=0.5)

    result = wired.relay().cycle(while_off=server.stop)

    assert (result.status, seen(result)) == ("ha_error", ["on", "off"])
    assert "THE BOARD OF hut-01 MAY BE OFF" in result.reason
    assert result.switch_off_s + result.switch_on_s < 2 + SLACK_S
    relay = HomeAssistantRelay(driver="home-assistant", entity="switch.good", server=server.settings())
    slot = Slot(
        id="hut-01", port="/dev/serial/by-id/x", relay=relay, power=wired.times, lock_path=tmp_path / "hut-01.lock"
    )
    with (
        pytest.raises(RelayError, match="THE BOARD OF hut-01 MAY BE OFF"),
        held_power(slot, Bench(), wired.events.append),
    ):
        pytest.fail("nobody may work on a board without power")
    server.start()
    assert server.state("switch.good") == "off"
    with held_power(slot, Bench(), wired.events.append) as held:
        assert held.state() == "on"
    assert wired.recoveries() == ["power restored"]


def test_the_server_restarts_while_the_power_is_off(server: HomeAssistantServer, wire: Wire) -> None:
    wired = wire("switch.good", budget_s=40)

    result = wired.relay().cycle(while_off=server.restart)

    assert (result.status, seen(result)) == ("ok", ["on", "off", "on"]), result
    assert server.state("switch.good") == "on"


def test_a_state_told_while_the_server_starts_is_not_believed(server: HomeAssistantServer, wire: Wire) -> None:
    """The relay is on; a starting server says for a moment that it is off."""
    relay = wire("switch.good").relay()
    told: set[tuple[str, str]] = set()
    looked: list[PowerResult] = []
    running = threading.Event()

    def listen() -> None:
        while not running.is_set():
            raw = server.raw_state("switch.good")
            told.update([raw] if raw else [])

    listener = threading.Thread(target=listen)
    server.restart()
    listener.start()
    until = time.monotonic() + 30
    while not (looked and looked[-1].ok) and time.monotonic() < until:
        looked.append(relay.look())
    running.set()
    listener.join()

    assert looked[-1].ok and looked[-1].last_state == "on"
    assert len(looked) > 1 and {state.state for result in looked for state in result.states} == {"on"}
    assert told, "the server spoke while it started"
    assert ("RUNNING", "off") not in told


def test_a_server_that_restarts_during_the_off_is_waited_for(
    server: HomeAssistantServer, proxy: CountingProxy, wire: Wire
) -> None:
    proxy.when("/turn_off", server.restart)
    wired = wire("switch.good", url=proxy.url, settle_timeout_s=15, budget_s=60, watch_s=1)

    result = wired.cycle()

    assert (result.status, seen(result)) == ("ok", ["on", "off", "on"]), result
    assert result.attempts == 3, "the first off died with the server"
    assert server.state("switch.good") == "on"


def test_credentials_are_looked_at_before_anything_is_sent(server: HomeAssistantServer, proxy: CountingProxy) -> None:
    server.credentials.chmod(0o644)
    try:
        with pytest.raises(ConfigError, match="chmod 0600"):
            HomeAssistantDriver(server.settings(proxy.url), "switch.good")
    finally:
        server.credentials.chmod(0o600)
    assert proxy.requests == []
