"""The relay state machine, over drivers that misbehave, and the promise that power comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_hut.bench.models import HomeAssistant, PowerTimes
from pytest_hut.errors import ConfigError, InfrastructureError, RelayError
from pytest_hut.events.types import Event, PowerCycled, PowerOffIntended, PowerSwitched, Recovered
from pytest_hut.power.credentials import read_secret
from pytest_hut.power.driver import RelayRefused, RelayTimeout
from pytest_hut.power.home_assistant import HomeAssistantDriver
from pytest_hut.power.intent import PowerFile, PowerRecord
from pytest_hut.power.relay import NoRelayDriver, Relay
from pytest_hut.virtual.client import start_virtual_bench
from pytest_hut.virtual.spec import VirtualBoardSpec

QUICK = PowerTimes(off_s=0.0, settle_timeout_s=0.3, max_tries=3)


class FakeDriver:
    """A relay whose every step can be made to fail."""

    name = "switch.fake"

    def __init__(self) -> None:
        self.is_on = True
        self.stuck = False
        self.commands: list[bool] = []
        self.troubles: list[Exception] = []
        self.on_command: Callable[[bool], None] = lambda on: None
        self.lag = 0

    def check(self) -> None:
        if self.troubles:
            raise self.troubles.pop(0)

    def command(self, on: bool) -> None:
        self.commands.append(on)
        self.on_command(on)
        if not self.stuck:
            self.is_on = on

    def state(self) -> str:
        if self.lag:
            self.lag -= 1
            return "off" if self.is_on else "on"
        return "on" if self.is_on else "off"

    def close(self) -> None: ...


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


def test_a_cycle_ends_on_and_tells_what_it_saw(relay: Relay, driver: FakeDriver, events: list[Event]) -> None:
    result = relay.cycle(off_s=0.0)

    assert (result.status, result.states, result.attempts) == ("ok", ("off", "on"), 2)
    assert driver.is_on
    assert [type(event) for event in events] == [PowerOffIntended, PowerSwitched, PowerSwitched, PowerCycled]


def test_a_lagging_relay_is_read_until_it_agrees(relay: Relay, driver: FakeDriver) -> None:
    driver.lag = 2
    result = relay.off()
    assert (result.status, result.states) == ("ok", ("on", "off"))


def test_a_relay_that_says_yes_and_does_nothing_is_a_timeout(relay: Relay, driver: FakeDriver) -> None:
    driver.stuck = True

    result = relay.off()

    assert (result.status, result.attempts, result.states) == ("timeout", 3, ("on",))
    assert "still says 'on'" in result.reason
    assert driver.commands == [False] * 3


def test_trouble_that_passes_is_tried_again(relay: Relay, driver: FakeDriver) -> None:
    driver.troubles = [RelayError("restarting"), RelayTimeout("slow")]
    result = relay.off()
    assert (result.status, result.attempts) == ("ok", 3)


def test_a_refusal_is_not_tried_again(relay: Relay, driver: FakeDriver) -> None:
    driver.troubles = [RelayRefused("wrong token")]
    result = relay.off()
    assert (result.status, result.attempts, result.reason) == ("ha_error", 1, "wrong token")
    assert driver.commands == []


def test_a_failed_off_is_still_followed_by_on(relay: Relay, driver: FakeDriver) -> None:
    driver.troubles = [RelayTimeout("no answer")] * 3
    result = relay.cycle()
    assert result.status == "timeout"
    assert driver.commands == [True], "the off that timed out may still happen, so on is commanded"


def test_a_board_that_cannot_be_switched_on_is_told_loudly(relay: Relay, driver: FakeDriver, record: PowerFile) -> None:
    def stick_when_off(on: bool) -> None:
        driver.stuck = on

    driver.on_command = stick_when_off
    result = relay.cycle()
    assert result.status == "timeout"
    assert "THE BOARD MAY BE OFF" in result.reason and "switch.fake" in result.reason
    assert record.read().off_intended, "the next holder has to restore it"


def test_the_intent_is_on_disk_before_the_command(relay: Relay, driver: FakeDriver, record: PowerFile) -> None:
    seen: list[bool] = []
    driver.on_command = lambda on: seen.append(record.read().off_intended)
    relay.off()
    relay.on()
    assert seen == [True, True]
    assert not record.read().off_intended


def test_the_power_is_left_alone_when_the_intent_cannot_be_written(
    driver: FakeDriver, tmp_path: Path, events: list[Event]
) -> None:
    folder = tmp_path / "hut-01.power"
    folder.mkdir()
    relay = Relay("hut-01", driver, QUICK, PowerFile(tmp_path / "hut-01.lock"), events.append)
    with pytest.raises(InfrastructureError, match="the power is left as it is"):
        relay.off()
    assert driver.commands == []


def test_the_next_holder_restores(driver: FakeDriver, record: PowerFile, events: list[Event]) -> None:
    Relay("hut-01", driver, QUICK, record, events.append).off()
    heir = Relay("hut-01", driver, QUICK, record, events.append)

    restored = heir.restore("a test")

    assert restored is not None and restored.ok and driver.is_on
    assert [event.what for event in events if isinstance(event, Recovered)] == ["power restored"]
    assert heir.restore("again") is None


def test_an_exception_in_the_off_time_brings_the_power_back(relay: Relay, driver: FakeDriver) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relay.cycle(while_off=interrupt)
    assert driver.is_on


def test_the_cooldown_holds_across_processes(driver: FakeDriver, record: PowerFile, events: list[Event]) -> None:
    times = PowerTimes(off_s=0.0, cooldown_s=0.3)
    Relay("hut-01", driver, times, record, events.append).cycle()
    start = time.monotonic()
    Relay("hut-01", driver, times, record, events.append).cycle()
    assert time.monotonic() - start >= 0.25


def test_a_clock_set_back_does_not_lock_the_slot() -> None:
    assert PowerRecord(last_cycle_end=time.time() + 1000).cooldown_left_s(5) == 0.0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"off_intended": true}', b"\xff" * 100])
def test_a_damaged_record_is_no_record(record: PowerFile, content: bytes) -> None:
    record.path.write_bytes(content)
    assert record.read() == PowerRecord()
    record.write(PowerRecord(True, 5.0))
    assert record.read() == PowerRecord(True, 5.0)


def test_a_slot_without_a_relay_says_so(record: PowerFile, events: list[Event]) -> None:
    result = Relay("hut-01", NoRelayDriver(), QUICK, record, events.append).cycle()
    assert (result.status, result.attempts) == ("ha_error", 2)
    assert "no relay" in result.reason


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
        driver.check()
        driver.command(False)
        assert driver.state() == "off"
        driver.close()

        with pytest.raises(RelayRefused, match=r"switch\.missing"):
            HomeAssistantDriver(server, "switch.missing").check()

        wrong = credentials(tmp_path / "wrong", "HOME_ASSISTANT_TOKEN=not-the-token")
        refused = HomeAssistantDriver(server.model_copy(update={"credentials": wrong}), "switch.hut_01_power")
        with pytest.raises(RelayRefused, match="401") as caught:
            refused.check()
        assert "not-the-token" not in str(caught.value)

    with pytest.raises(RelayError, match="cannot be reached"):
        driver.state()
