"""Mistakes in slots.toml and in options: one sentence with file, key, value and fix; exit status 4, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import REPOSITORY, Lab

from pytest_hut.bench.ids import default_lock_path
from pytest_hut.bench.load import load_bench, select_slots, virtual_bench
from pytest_hut.bench.places import find_config
from pytest_hut.errors import ConfigError

GOOD = '[slots.hut-01]\nport = "/dev/serial/by-id/a"\n'

MISTAKES = {
    "unknown key": ('[slots.hut-01]\nprot = "/dev/serial/by-id/a"', ["slots.hut-01.prot", "known here are port"]),
    "unknown table": (f"{GOOD}[relays]\nx = 1", ["'relays'", "known here are slots"]),
    "unknown key of a relay": (
        f'{GOOD}[slots.hut-01.relay]\ndriver = "home-assistant"\nentty = "switch.a"',
        ["relay.ent", "entity"],
    ),
    "two slots on one port": (
        f'{GOOD}[slots.hut-02]\nport = "/dev/serial/by-id/a"',
        ["hut-01", "hut-02", "/dev/serial/by-id/a", "needs its own"],
    ),
    "two slots with one lock": (
        f'{GOOD}lock_path = "/l"\n[slots.hut-02]\nport = "/dev/serial/by-id/b"\nlock_path = "/l"',
        ["hut-01 and hut-02", "lock"],
    ),
    "unstable port": ('[slots.hut-01]\nport = "/dev/ttyUSB0"', ["port", "/dev/ttyUSB0", "/dev/serial/by-id"]),
    "unstable ACM port": ('[slots.hut-01]\nport = "/dev/ttyACM3"', ["/dev/ttyACM3", "/dev/serial/by-id"]),
    "relative port": ('[slots.hut-01]\nport = "ttyUSB0"', ["port", "ttyUSB0", "absolute"]),
    "unknown chip": (f'{GOOD}chip = "esp99"', ["chip", "esp99", "esp32s3"]),
    "chip that cannot be virtual": (
        '[slots.hut-01]\nvirtual = true\nchip = "esp32p4"',
        ["hut-01", "esp32p4", "esp32c6"],
    ),
    "empty": ("", ["has no slots", "[slots.hut-01]"]),
    "no slots": ("[slots]", ["has no slots"]),
    "not TOML": ("slots = = 3", ["is not valid TOML", "line 1"]),
    "no port": ("[slots.hut-01]", ["hut-01", "no port", "virtual = true"]),
    "slot id that leaves its folder": ('[slots."../x"]\nvirtual = true', ["../x", "a slot id is"]),
    "slot id with a slash": ('[slots."a/b"]\nvirtual = true', ["a/b", "a slot id is"]),
    "slot that is no table": ("[slots]\nhut-01 = 3", ["hut-01", "3"]),
    "relay without a server": (
        f'{GOOD}relay = {{ driver = "home-assistant", entity = "switch.a" }}',
        ["hut-01", "[home_assistant]", "url"],
    ),
    "relay of an unknown kind": (f'{GOOD}relay = {{ driver = "magic" }}', ["relay", "magic", "home-assistant"]),
    "entity of a wrong domain": (
        f'[home_assistant]\nurl = "http://h:8123"\n{GOOD}relay = {{ driver = "home-assistant", entity = "fan.a" }}',
        ["relay.entity", "fan.a", "switch"],
    ),
    "baud rate in words": (f'{GOOD}console_baud = "fast"', ["console_baud", "fast"]),
    "feature that is no word": (f'{GOOD}features = ["two words"]', ["features", "two words"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_gets_one_sentence(tmp_path: Path, name: str) -> None:
    text, words = MISTAKES[name]
    path = tmp_path / "slots.toml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_bench(path)

    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["unknown key", "two slots on one port", "unstable port", "empty", "not TOML"])
def test_pytest_ends_with_a_usage_error(lab: Lab, name: str) -> None:
    text, words = MISTAKES[name]
    (lab.folder / "slots.toml").write_text(text)

    session = lab.run(slots=["hut-01"])

    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in session.output
    assert all(word in session.output for word in words)


@pytest.mark.parametrize(
    ("arguments", "slots", "words"),
    [
        ([], ["hut-07"], ["hut-07", "there is no slot", "hut-01"]),
        ([], ["../etc"], ["../etc", "a slot id is"]),
        ([], ["hut-01", "hut-01"], ["named twice"]),
        (["-n", "3"], ["hut-01", "hut-02"], ["-n 3", "more workers than there are slots", "-n 2"]),
        (["--hut-config=missing.toml"], ["hut-01"], ["--hut-config", "missing.toml", "no such file"]),
        (["--hut-firmware=missing.zip"], ["hut-01"], ["--hut-firmware=missing.zip", "no such file"]),
        (["--hut-job-id=../../x"], ["hut-01"], ["--hut-job-id=../../x", "a job id is"]),
    ],
)
def test_options_that_cannot_work(lab: Lab, arguments: list[str], slots: list[str], words: list[str]) -> None:
    lab.write_slots("hut-01", "hut-02")
    lab.write_test("def test_it(hut_slot): pass")

    session = lab.run(*arguments, slots=slots)

    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in session.output
    assert all(word in session.output for word in words), session.output


def test_slots_without_any_configuration_say_where_it_was_looked_for(lab: Lab) -> None:
    session = lab.run(slots=["hut-01"])

    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "HUT_CONFIG" in session.output
    assert "--hut-virtual" in session.output


def test_the_template_loads() -> None:
    bench = load_bench(REPOSITORY / "slots.example.toml")

    assert set(bench.slots) >= {"hut-01", "hut-02"}
    assert bench.slots["hut-01"].lock == Path("/var/lock/hut-01.lock")


def test_places_are_looked_at_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HUT_CONFIG", raising=False)
    places = {
        "option": tmp_path / "option.toml",
        "environment": tmp_path / "environment.toml",
        "folder": tmp_path / "folder" / "slots.toml",
        "user": tmp_path / "config" / "hut" / "slots.toml",
    }
    for path in places.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GOOD)
    folder = places["folder"].parent

    assert find_config(str(places["option"]), folder) == places["option"]
    monkeypatch.setenv("HUT_CONFIG", str(places["environment"]))
    assert find_config(None, folder) == places["environment"]
    monkeypatch.delenv("HUT_CONFIG")
    assert find_config(None, folder) == places["folder"]
    places["folder"].unlink()
    assert find_config(None, folder) == places["user"]


def test_the_contract_path_of_a_lock() -> None:
    assert default_lock_path("hut-01") == Path("/var/lock/hut-01.lock")
    assert default_lock_path("left") == Path("/var/lock/hut-left.lock")


def test_a_virtual_slot_keeps_what_the_file_says_of_it(tmp_path: Path) -> None:
    path = tmp_path / "slots.toml"
    path.write_text(f'{GOOD}chip = "esp32s3"\nfeatures = ["display"]')

    bench = virtual_bench(["hut-01", "hut-02"], load_bench(path))

    first, second = select_slots(bench, ["hut-01", "hut-02"], "here")
    assert (first.virtual, first.port, first.chip, first.features) == (True, None, "esp32s3", ("display",))
    assert (second.virtual, second.chip) == (True, "esp32")


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_loads_or_is_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "slots.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    with pytest.raises(ConfigError):
        load_bench(path)
