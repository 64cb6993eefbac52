"""Relays that other programs switch, with small scripts in the place of uhubctl."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from job_rig import ends_soon
from pydantic import ValidationError

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import Bench, CommandRelay, PowerTimes, Slot
from pytest_hut.errors import ConfigError, RelayError
from pytest_hut.events.types import Event, Recovered
from pytest_hut.power.command import CommandDriver
from pytest_hut.power.driver import RelayRefused, RelayTimeout
from pytest_hut.power.held import held_power
from pytest_hut.power.intent import PowerFile
from pytest_hut.power.relay import UNPROVED
from pytest_hut.power.result import READ_BACK

QUICK = PowerTimes(off_s=0.0, settle_timeout_s=0.5, stable_s=0.0, watch_s=0.3, max_tries=2, budget_s=5.0)

Script = Callable[[str, str], tuple[str, ...]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes programs; each runs in a shell with the folder of the relay as $1."""

    def script(name: str, text: str) -> tuple[str, ...]:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return (str(path), str(tmp_path))

    return script


@pytest.fixture
def config(script: Script, tmp_path: Path) -> CommandRelay:
    (tmp_path / "contact").write_text("on\n")
    return CommandRelay(
        driver="command",
        on=script("switch-on", 'echo "switching on"; echo on > $1/contact'),
        off=script("switch-off", 'echo "switching off"; echo off > $1/contact'),
        state=script("read-state", "cat $1/contact"),
    )


def slot(config: CommandRelay, folder: Path) -> Slot:
    return Slot(id="hut-01", port="/dev/serial/by-id/x", relay=config, power=QUICK, lock_path=folder / "hut-01.lock")


def test_a_cycle(config: CommandRelay, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with held_power(slot(config, tmp_path), Bench(), lambda event: None) as relay:
        result = relay.cycle()

    assert (result.status, result.entity, result.attempts) == ("ok", "switch-on", 2)
    assert [state.state for state in result.states] == ["on", "off", "on"]
    assert result.proved_by == (READ_BACK,)
    assert capfd.readouterr() == ("", ""), "what programs print is not our output"


def test_without_a_state_command_nothing_is_proved_and_the_result_says_so(config: CommandRelay, tmp_path: Path) -> None:
    mute = config.model_copy(update={"state": None})
    with held_power(slot(mute, tmp_path), Bench(), lambda event: None) as relay:
        result = relay.cycle()
        proved = relay.cycle(prove=lambda: ("ROM banner",))
        look = relay.look()

    assert (result.status, result.states, result.proved_by, result.reason) == ("ok", (), (), UNPROVED)
    assert (proved.status, proved.proved_by, proved.reason) == ("ok", ("ROM banner",), "")
    assert (look.status, look.last_state) == ("ha_error", "unknown")
    assert (tmp_path / "contact").read_text() == "on\n"


def test_a_program_that_fails_is_told_in_its_own_words(config: CommandRelay, script: Script, tmp_path: Path) -> None:
    broken = config.model_copy(update={"off": script("off", "echo first >&2; echo 'no hub found' >&2; exit 3")})
    with held_power(slot(broken, tmp_path), Bench(), lambda event: None) as relay:
        result = relay.cycle()

    assert (result.status, result.attempts) == ("ha_error", 3)
    assert result.reason == "switching off failed: off ended with exit code 3: no hub found"
    assert str(tmp_path) not in result.reason, "arguments may carry secrets"


def test_a_program_that_hangs_is_killed_with_what_it_started(
    config: CommandRelay, script: Script, tmp_path: Path
) -> None:
    hanging = script("off", "echo $$ > $1/pid; sleep 60 & echo $! > $1/child; wait")
    driver = CommandDriver(config.model_copy(update={"off": hanging}))
    start = time.monotonic()

    with pytest.raises(RelayTimeout, match=r"off did not end within 0\.5 s"):
        driver.command(False, 0.5)

    assert time.monotonic() - start < 3
    for name in ("pid", "child"):
        assert ends_soon((tmp_path / name).read_text())  # A signal is sent at once, and takes a moment to do its work.


def test_a_grandchild_that_keeps_the_output_open_delays_nobody(config: CommandRelay, script: Script) -> None:
    driver = CommandDriver(config.model_copy(update={"state": script("state", "sleep 5 & echo on")}))
    start = time.monotonic()
    assert driver.state(10) == "on"
    assert time.monotonic() - start < 3


def test_a_program_that_is_not_there(config: CommandRelay, tmp_path: Path) -> None:
    driver = CommandDriver(config.model_copy(update={"on": ("no-such-program",), "off": (str(tmp_path),)}))
    with pytest.raises(RelayRefused, match="there is no program no-such-program"):
        driver.command(True, 5)
    with pytest.raises(RelayRefused, match="cannot be run: Permission denied"):
        driver.command(False, 5)


UHUBCTL = """Current status for hub 1-1 [2109:3431 USB2.0 Hub, USB 2.10, 4 ports, ppps]
  Port 1: 0507 power highspeed suspend enable connect [0424:9514]
  Port 2: {port}
"""


@pytest.mark.parametrize(
    ("port", "state"),
    [("0100 power", "on"), ("0103 power enable connect [10c4:ea60 CP2102N]", "on"), ("0000 off", "off")],
)
def test_the_words_of_uhubctl(config: CommandRelay, script: Script, port: str, state: str) -> None:
    printed = script("uhubctl", f"cat <<'END'\n{UHUBCTL.format(port=port)}END")
    uhubctl = config.model_copy(
        update={"state": printed, "state_on": "Port 2: .* power", "state_off": "Port 2: .* off"}
    )
    assert CommandDriver(uhubctl).state(5) == state


@pytest.mark.parametrize(
    ("prints", "says"), [("echo maybe", "neither"), ("echo on; echo off", "both"), ("", "neither")]
)
def test_a_state_that_cannot_be_understood(config: CommandRelay, script: Script, prints: str, says: str) -> None:
    driver = CommandDriver(config.model_copy(update={"state": script("state", prints)}))
    with pytest.raises(RelayError, match=says):
        driver.state(5)


def test_no_shell_reads_the_arguments(config: CommandRelay, tmp_path: Path) -> None:
    driver = CommandDriver(config.model_copy(update={"on": ("touch", f"{tmp_path}/a; touch {tmp_path}/b")}))
    with pytest.raises(RelayError, match="touch ended with exit code 1"):
        driver.command(True, 5)
    assert not (tmp_path / "b").exists()


def test_the_next_holder_restores_and_a_board_may_be_left_off_on_purpose(config: CommandRelay, tmp_path: Path) -> None:
    events: list[Event] = []
    contact = tmp_path / "contact"
    with held_power(slot(config, tmp_path), Bench(), events.append, may_stay_off=True) as relay:
        assert relay.off().ok
    assert contact.read_text() == "off\n"
    record = PowerFile(tmp_path / "hut-01.lock").read()
    assert record is not None and record.off_intended

    with held_power(slot(config, tmp_path), Bench(), events.append) as relay:
        assert relay.state() == "on"
    assert [event.what for event in events if isinstance(event, Recovered)] == ["power restored"]


def test_a_board_that_may_stay_off_is_on_after_an_interruption(config: CommandRelay, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        held_power(slot(config, tmp_path), Bench(), lambda event: None, may_stay_off=True) as relay,
    ):
        relay.off()
        raise KeyboardInterrupt
    assert (tmp_path / "contact").read_text() == "on\n"


def test_a_holder_that_cannot_give_power_back_says_so(config: CommandRelay, script: Script, tmp_path: Path) -> None:
    dead = config.model_copy(update={"on": script("dead-on", "exit 1")})
    with (
        pytest.raises(
            RelayError, match=r"hut-01 has no power.*THE BOARD OF hut-01 MAY BE OFF, switch dead-on on by hand"
        ),
        held_power(slot(dead, tmp_path), Bench(), lambda event: None) as relay,
    ):
        relay.off()
    with pytest.raises(RelayError, match="MAY BE OFF"), held_power(slot(dead, tmp_path), Bench(), lambda event: None):
        pytest.fail("nobody may work on a board without power")
    assert (tmp_path / "hut-01.power").exists()


def test_it_is_configured_in_slots_toml(tmp_path: Path) -> None:
    def write(relay: str) -> Path:
        path = tmp_path / "slots.toml"
        path.write_text(
            f'[slots.hut-01]\nport = "/dev/serial/by-id/x"\n[slots.hut-01.relay]\ndriver = "command"\n{relay}'
        )
        return path

    relay = load_bench(write('on = ["a", "1"]\noff = ["b"]')).slots["hut-01"].relay
    assert isinstance(relay, CommandRelay) and (relay.on, relay.off, relay.state) == (("a", "1"), ("b",), None)
    with pytest.raises(ConfigError, match=r"'slots\.hut-01\.relay\.of'; known here are driver, on, off, state"):
        load_bench(write('on = ["a"]\noff = ["b"]\nof = ["c"]'))
    with pytest.raises(ConfigError, match=r"'slots\.hut-01\.relay\.off' is missing"):
        load_bench(write('on = ["a"]'))
    with pytest.raises(ValidationError, match="no regular expression"):
        CommandRelay(driver="command", on=("a",), off=("b",), state_on="(")
