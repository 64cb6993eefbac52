"""The relay state machine, over drivers that misbehave, and the promise that power comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_hut.bench.models import HomeAssistant, PowerTimes
from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.errors import ConfigError, InfrastructureError, RelayError
from pytest_hut.events.types import Event, PowerCycled, PowerOffIntended, PowerSwitched, Recovered
from pytest_hut.power.credentials import read_secret
from pytest_hut.power.driver import RelayRefused, RelayTimeout, RelayUnknown
from pytest_hut.power.home_assistant import HomeAssistantDriver
from pytest_hut.power.intent import LINE_WIDTH, PowerFile, PowerRecord
from pytest_hut.power.manual import NoRelayDriver
from pytest_hut.power.relay import Relay
from pytest_hut.power.result import READ_BACK, PowerResult
from pytest_hut.power.signals import ending_held_back
from pytest_hut.virtual.client import start_virtual_bench

QUICK = PowerTimes(off_s=0.0, settle_timeout_s=0.3, stable_s=0.0, watch_s=0.3, max_tries=3, budget_s=5.0)


class FakeDriver:
    """A relay whose every step can be made to fail."""

    name = "switch.fake"

    def __init__(self) -> None:
        self.is_on = True
        self.stuck = False
        self.tells = True
        self.commands: list[bool] = []
        self.state_troubles: list[RelayError] = []
        """Raised by the next readings of the state, one each."""
        self.command_troubles: list[RelayError] = []
        """Raised by the next commands, one each, without any effect."""
        self.on_command: Callable[[bool], None] = lambda on: None
        self.told: list[str] = []
        """What is told by the next readings, whatever is true."""
        self.within_s: list[float] = []

    def state(self, within_s: float) -> str | None:
        self.within_s.append(within_s)
        if not self.tells:
            return None
        if self.state_troubles:
            raise self.state_troubles.pop(0)
        return self.told.pop(0) if self.told else "on" if self.is_on else "off"

    def command(self, on: bool, within_s: float) -> None:
        self.within_s.append(within_s)
        self.commands.append(on)
        self.on_command(on)
        if self.command_troubles:
            raise self.command_troubles.pop(0)
        if not self.stuck:
            self.is_on = on

    def close(self) -> None: ...


def seen(result: PowerResult) -> list[str]:
    return [state.state for state in result.states]


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def record(tmp_path: Path) -> PowerFile:
    return PowerFile(tmp_path / "hut-01.lock")


@pytest.fixture
def relay(driver: FakeDriver, record: PowerFile, events: list[Event]) -> Relay:
    return Relay("hut-01", driver, QUICK, record, events.append)


def intended(record: PowerFile) -> bool:
    known = record.read()
    return known is not None and known.off_intended


def test_a_cycle_ends_on_and_tells_what_it_saw(relay: Relay, driver: FakeDriver, events: list[Event]) -> None:
    result = relay.cycle(off_s=0.0)

    assert (result.status, seen(result), result.attempts) == ("ok", ["on", "off", "on"], 2)
    assert result.proved_by == (READ_BACK,) and result.reason == ""
    assert driver.is_on
    assert [type(event) for event in events] == [PowerOffIntended, PowerSwitched, PowerSwitched, PowerCycled]


def test_a_cycle_carries_what_the_board_shows(relay: Relay, events: list[Event]) -> None:
    result = relay.cycle(prove=lambda: ("ROM banner",))

    assert result.proved_by == (READ_BACK, "ROM banner")
    assert isinstance(events[-1], PowerCycled)
    assert events[-1].proved_by == [READ_BACK, "ROM banner"]
    assert [state["state"] for state in events[-1].states] == ["on", "off", "on"]


def test_a_lagging_relay_is_read_until_it_agrees(relay: Relay, driver: FakeDriver) -> None:
    driver.told = ["on", "on", "on"]
    result = relay.off()
    assert (result.status, seen(result), result.attempts) == ("ok", ["on", "off"], 1)


def test_one_lucky_reading_is_not_believed(driver: FakeDriver, record: PowerFile, events: list[Event]) -> None:
    """Software that shows what it hopes for takes it back when the device reports."""
    times = QUICK.model_copy(update={"stable_s": 0.25, "settle_timeout_s": 1.0})
    driver.told = ["on", "off", "off", "on"]

    result = Relay("hut-01", driver, times, record, events.append).off()

    assert (result.status, seen(result), result.attempts) == ("ok", ["on", "off", "on", "off"], 1)
    assert result.seconds >= 0.5


def test_a_relay_that_hopes_and_never_does_is_a_timeout(
    driver: FakeDriver, record: PowerFile, events: list[Event]
) -> None:
    times = QUICK.model_copy(update={"stable_s": 0.15, "max_tries": 1})
    driver.stuck = True
    driver.told = ["on", "off"] * 8
    result = Relay("hut-01", driver, times, record, events.append).off()
    assert result.status == "timeout"


def test_a_relay_that_says_yes_and_does_nothing_is_a_timeout(relay: Relay, driver: FakeDriver) -> None:
    driver.stuck = True

    result = relay.off()

    assert (result.status, result.attempts, seen(result)) == ("timeout", 3, ["on"])
    assert "still says 'on'" in result.reason
    assert driver.commands == [False] * 3


def test_trouble_that_passes_is_waited_out_before_a_command(relay: Relay, driver: FakeDriver) -> None:
    driver.state_troubles = [RelayError("restarting")]
    result = relay.on()
    assert (result.status, result.attempts, driver.commands) == ("ok", 1, [True])


def test_a_command_that_failed_is_sent_again(relay: Relay, driver: FakeDriver) -> None:
    driver.command_troubles = [RelayError("500"), RelayTimeout("slow")]
    result = relay.off()
    assert (result.status, result.attempts, driver.commands) == ("ok", 3, [False] * 3)


def test_a_command_that_failed_with_effect_is_done(relay: Relay, driver: FakeDriver) -> None:
    def work_although(on: bool) -> None:
        driver.is_on = on

    driver.on_command = work_although
    driver.command_troubles = [RelayError("500")]
    result = relay.off()
    assert (result.status, result.attempts, result.reason) == ("ok", 1, "500; it is off nevertheless")


@pytest.mark.parametrize("error", [RelayRefused("wrong token"), RelayUnknown("no such entity")])
def test_nothing_is_switched_off_where_asking_is_refused(
    relay: Relay, driver: FakeDriver, record: PowerFile, events: list[Event], error: RelayError
) -> None:
    driver.state_troubles = [error]

    result = relay.cycle()

    assert (result.status, result.attempts, result.reason) == ("ha_error", 0, f"nothing was switched: {error}")
    assert driver.commands == [] and not record.path.exists()
    assert [type(event) for event in events] == [PowerSwitched, PowerCycled]


def test_a_refusal_in_the_middle_ends_at_once_and_loudly(relay: Relay, driver: FakeDriver) -> None:
    result = relay.cycle(while_off=lambda: driver.state_troubles.append(RelayRefused("token revoked")))
    assert (result.status, driver.commands) == ("ha_error", [False])
    assert result.reason == "THE BOARD OF hut-01 MAY BE OFF, switch switch.fake on by hand: token revoked"


def test_an_entity_that_is_gone_for_a_moment_is_waited_for_when_power_is_owed(relay: Relay, driver: FakeDriver) -> None:
    result = relay.cycle(while_off=lambda: driver.state_troubles.append(RelayUnknown("reloading")))
    assert result.ok and driver.is_on


def test_a_failed_off_is_still_followed_by_on(relay: Relay, driver: FakeDriver) -> None:
    driver.command_troubles = [RelayTimeout("no answer")] * 3
    result = relay.cycle()
    assert (result.status, result.reason) == ("timeout", "switching off failed: no answer")
    assert driver.commands == [False] * 3 + [True], "the off that timed out may still happen, so on is commanded"


def test_a_late_off_is_watched_for_and_undone(relay: Relay, driver: FakeDriver, events: list[Event]) -> None:
    def arrive_late(on: bool) -> None:
        if on and driver.commands.count(True) == 1:
            driver.told = ["on", "on", "off"]

    driver.on_command = arrive_late
    driver.command_troubles = [RelayTimeout("no answer")] * 3

    result = relay.cycle()

    assert (result.status, result.late_offs, seen(result)) == ("timeout", 1, ["on", "off", "on"])
    assert driver.commands == [False] * 3 + [True, True]
    assert [event.what for event in events if isinstance(event, Recovered)] == ["late off undone"]


def test_an_off_that_was_answered_and_seen_is_not_watched_for(relay: Relay, record: PowerFile) -> None:
    relay.off()
    known = record.read()
    assert known is not None and known.off_intended and known.off_sent == 0
    assert relay.on().watched_s == 0


def test_commands_get_half_of_the_time_and_all_ends_in_the_budget(
    driver: FakeDriver, record: PowerFile, events: list[Event]
) -> None:
    times = QUICK.model_copy(update={"budget_s": 1.0, "settle_timeout_s": 5.0})
    driver.stuck = True
    result = Relay("hut-01", driver, times, record, events.append).off()
    assert result.status == "timeout" and 0.9 < result.seconds < 1.5
    assert driver.within_s[1] <= 0.5, "the first command"


def test_switching_off_leaves_half_of_the_budget_for_switching_on(
    driver: FakeDriver, record: PowerFile, events: list[Event]
) -> None:
    times = QUICK.model_copy(update={"budget_s": 1.0, "settle_timeout_s": 5.0})
    driver.stuck = True
    result = Relay("hut-01", driver, times, record, events.append).cycle()
    assert 0.45 < result.switch_off_s < 0.8 and result.seconds < 1.5
    assert driver.commands == [False, True]


def test_a_board_that_cannot_be_switched_on_is_told_loudly(relay: Relay, driver: FakeDriver, record: PowerFile) -> None:
    def stick_when_off(on: bool) -> None:
        driver.stuck = on

    driver.on_command = stick_when_off
    result = relay.cycle()
    assert result.status == "timeout"
    assert "THE BOARD OF hut-01 MAY BE OFF, switch switch.fake on by hand" in result.reason
    assert intended(record), "the next holder has to restore it"


def test_the_intent_is_on_disk_before_the_command(relay: Relay, driver: FakeDriver, record: PowerFile) -> None:
    at_command: list[bool] = []
    driver.on_command = lambda on: at_command.append(intended(record))
    relay.off()
    relay.on()
    assert at_command == [True, True]
    assert not intended(record)


def test_a_cycle_is_forgotten_only_when_all_of_it_is_told(
    relay: Relay, record: PowerFile, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_event: list[tuple[str, bool]] = []
    monkeypatch.setattr(relay, "_emit", lambda event: at_event.append((type(event).__name__, intended(record))))
    relay.cycle(on_s=0.01)
    assert at_event == [
        ("PowerOffIntended", True),
        ("PowerSwitched", True),
        ("PowerSwitched", True),
        ("PowerCycled", True),
    ]
    assert not intended(record)


def test_the_power_is_left_alone_when_the_intent_cannot_be_written(
    driver: FakeDriver, tmp_path: Path, events: list[Event]
) -> None:
    relay = Relay("hut-01", driver, QUICK, PowerFile(tmp_path / "nowhere" / "hut-01.lock"), events.append)
    with pytest.raises(InfrastructureError, match="the power is left as it is"):
        relay.cycle()
    assert driver.commands == []


def test_a_record_that_cannot_be_read_is_trouble(relay: Relay, driver: FakeDriver, record: PowerFile) -> None:
    record.path.symlink_to("/dev/null")
    with pytest.raises(InfrastructureError, match="nobody knows whether the board was left off"):
        relay.cycle()
    assert driver.commands == []


def test_the_next_holder_restores(driver: FakeDriver, record: PowerFile, events: list[Event]) -> None:
    Relay("hut-01", driver, QUICK, record, events.append).off()
    heir = Relay("hut-01", driver, QUICK, record, events.append)

    restored = heir.restore("a test")

    assert restored is not None and restored.ok and driver.is_on
    assert [event.what for event in events if isinstance(event, Recovered)] == ["power restored"]
    assert heir.restore("again") is None


def test_a_board_that_is_off_without_any_record_is_switched_on(
    relay: Relay, driver: FakeDriver, record: PowerFile, events: list[Event]
) -> None:
    """A host that died in mid-cycle may have lost the record with its /run."""
    driver.is_on = False
    assert relay.restore("a test") is None
    restored = relay.first_look()
    assert restored is not None and restored.ok and driver.is_on
    assert [event.what for event in events if isinstance(event, Recovered)] == ["power restored"]
    assert relay.first_look() is None and not intended(record)


def test_the_first_look_is_only_one(relay: Relay, driver: FakeDriver) -> None:
    assert relay.first_look() is None and len(driver.within_s) == 1
    assert relay.first_look() is None and len(driver.within_s) == 1


def test_a_relay_that_cannot_be_asked_delays_nobody_who_does_not_need_it(relay: Relay, driver: FakeDriver) -> None:
    driver.state_troubles = [RelayError("down")]
    assert relay.first_look() is None
    assert driver.commands == []


def test_an_exception_in_the_off_time_brings_the_power_back(relay: Relay, driver: FakeDriver) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relay.cycle(while_off=interrupt)
    assert driver.is_on


def test_the_cooldown_holds_across_processes(driver: FakeDriver, record: PowerFile, events: list[Event]) -> None:
    times = QUICK.model_copy(update={"cooldown_s": 0.4})
    Relay("hut-01", driver, times, record, events.append).cycle()
    start = time.monotonic()
    result = Relay("hut-01", driver, times, record, events.append).cycle()
    assert time.monotonic() - start >= 0.35
    assert 0.3 < result.cooldown_s <= 0.4
    relay = Relay("hut-01", driver, times, record, events.append)
    assert relay.off().cooldown_s > 0.3, "an off by itself wears the relay just as much"


def test_a_clock_set_back_does_not_lock_the_slot() -> None:
    assert PowerRecord(last_cycle_end=time.time() + 1000).cooldown_left_s(5) == 0.0


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"off_intended": false}', b"\xff" * 100])
def test_a_damaged_record_is_an_intent(record: PowerFile, content: bytes) -> None:
    """Who damages it is a crash in mid-cycle; a board that is told to be on once more takes no harm."""
    record.path.write_bytes(content)
    known = record.read()
    assert known is not None and known.off_intended and known.watch_left_s(10) > 9
    record.write(PowerRecord(True, 5.0))
    assert record.read() == PowerRecord(True, 5.0)


def test_a_record_that_was_only_made_is_none(record: PowerFile) -> None:
    record.path.touch()
    assert record.read() is None


@pytest.mark.parametrize("times", [PowerRecord(), PowerRecord(True, time.time(), time.time()), PowerRecord(True, 1e-9)])
def test_one_write_replaces_all_of_a_record(record: PowerFile, times: PowerRecord) -> None:
    record.write(times)
    assert record.path.stat().st_size == LINE_WIDTH + 1
    assert record.read() == times


def test_a_late_off_is_expected_for_a_bounded_time_whatever_the_clock_does() -> None:
    now = time.time()
    assert PowerRecord(off_sent=now - 4).watch_left_s(10) == pytest.approx(6, abs=0.5)
    assert PowerRecord(off_sent=now - 40).watch_left_s(10) == 0
    assert PowerRecord(off_sent=now + 1000).watch_left_s(10) == 10
    assert PowerRecord().watch_left_s(10) == 0


def test_a_slot_without_a_relay_says_so(record: PowerFile, events: list[Event]) -> None:
    relay = Relay("hut-01", NoRelayDriver(), QUICK, record, events.append)
    for result in (relay.cycle(), relay.on(), relay.off(), relay.look()):
        assert (result.status, result.attempts) == ("ha_error", 0)
        assert "the slot has no relay" in result.reason
    assert relay.restore("a test") is None and relay.first_look() is None


def test_a_look_tells_the_state_and_changes_nothing(relay: Relay, driver: FakeDriver) -> None:
    assert (relay.look().status, relay.look().last_state, relay.look().action) == ("ok", "on", "state")
    driver.told = ["unavailable"]
    result = relay.look()
    assert (result.status, result.last_state) == ("ha_error", "unavailable")
    driver.state_troubles = [RelayTimeout("no answer")]
    assert (relay.look().status, driver.commands) == ("timeout", [])


def test_a_result_is_plain_json(relay: Relay) -> None:
    data = json.loads(json.dumps(relay.cycle().to_json()))
    assert (data["status"], data["action"], data["entity"]) == ("ok", "cycle", "switch.fake")
    assert [state["state"] for state in data["states"]] == ["on", "off", "on"]


def test_signals_wait_for_the_way_back_on() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with ending_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("restored")
        steps.append("never")
    assert steps == ["restored"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def credentials(folder: Path, text: str, folder_mode: int = 0o700, file_mode: int = 0o600) -> Path:
    folder.mkdir()
    path = folder / "runner.env"
    path.write_text(text)
    path.chmod(file_mode)
    folder.chmod(folder_mode)
    return path


@pytest.mark.parametrize(
    ("text", "folder_mode", "file_mode", "says"),
    [
        ("T=secret", 0o755, 0o600, "chmod 0700"),
        ("T=secret", 0o700, 0o644, "chmod 0600"),
        ("OTHER=secret", 0o700, 0o600, "no line T="),
        ("T=", 0o700, 0o600, "no line T="),
    ],
)
def test_unsafe_or_useless_credentials(tmp_path: Path, text: str, folder_mode: int, file_mode: int, says: str) -> None:
    path = credentials(tmp_path / "c", text, folder_mode, file_mode)
    with pytest.raises(ConfigError, match=says) as caught:
        read_secret(path, "T")
    assert "secret" not in str(caught.value).replace("secrets", "")


def test_credentials_are_read(tmp_path: Path) -> None:
    path = credentials(tmp_path / "c", '# comment\nA=1\n  T = "the secret" \n')
    assert read_secret(path, "T") == "the secret"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "c" / "missing.env", "T")


def test_the_home_assistant_driver_against_a_virtual_relay(tmp_path: Path) -> None:
    with start_virtual_bench([VirtualBoardSpec("hut-01")], tmp_path / "state") as bench:
        server = HomeAssistant.model_validate(bench.describe["home_assistant"])
        driver = HomeAssistantDriver(server, "switch.hut_01_power")
        assert driver.state(5) == "on"
        driver.command(False, 5)
        assert driver.state(5) == "off"
        driver.close()

        with pytest.raises(RelayUnknown, match=r"switch\.missing"):
            HomeAssistantDriver(server, "switch.missing").state(5)

        wrong = credentials(tmp_path / "wrong", "HOME_ASSISTANT_TOKEN=not-the-token")
        refused = HomeAssistantDriver(server.model_copy(update={"credentials": wrong}), "switch.hut_01_power")
        with pytest.raises(RelayRefused, match="401") as caught:
            refused.state(5)
        assert "not-the-token" not in str(caught.value)

    with pytest.raises(RelayError, match="cannot be reached"):
        driver.state(5)
