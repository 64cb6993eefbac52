"""The reset circuit, the joining of line changes, and the noise of the wire: pure logic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.bench.virtual_board import Faults
from pytest_hut.virtual.circuit import EN_RISE_S, HOLD_BACK_S, RELEASED, ModemLines, ResetCircuit, SequentialLines
from pytest_hut.virtual.noise import LineFaults, bauds_match, resample

IN_RESET = ModemLines(dtr=False, rts=True)
BOOT = ModemLines(dtr=True, rts=False)
BOTH = ModemLines(dtr=True, rts=True)

lines = st.builds(ModemLines, dtr=st.booleans(), rts=st.booleans())
gaps = st.floats(min_value=0, max_value=4 * EN_RISE_S)
histories = st.lists(st.tuples(gaps, st.one_of(lines, st.booleans())), max_size=30)


def powered(now: float = 0.0) -> ResetCircuit:
    circuit = ResetCircuit()
    circuit.set_power(True, now)
    circuit.advance(now + EN_RISE_S)
    assert circuit.enabled
    return circuit


def play(circuit: ResetCircuit, steps: list[tuple[float, ModemLines]], now: float = 1.0) -> float:
    for delay, wanted in steps:
        now += delay
        circuit.set_lines(wanted, now)
    return now


def test_power_is_a_reset_with_io0_high() -> None:
    circuit = ResetCircuit()
    circuit.set_power(True, 0.0)
    assert not circuit.enabled
    circuit.advance(EN_RISE_S)
    assert circuit.enabled
    assert not circuit.download
    circuit.set_power(False, 1.0)
    assert not circuit.enabled


@given(gap=st.floats(min_value=0, max_value=0.99 * EN_RISE_S))
def test_classic_reset_enters_download_mode_if_its_two_writes_come_close_together(gap: float) -> None:
    circuit = powered()
    now = play(circuit, [(0, IN_RESET), (0.1, BOTH), (gap, BOOT)])
    now = play(circuit, [(0.05, RELEASED)], now)
    assert circuit.enabled
    assert circuit.download


def test_classic_reset_too_slow_boots_the_application() -> None:
    circuit = powered()
    play(circuit, [(0, IN_RESET), (0.1, BOTH), (0.05, BOOT), (0.05, RELEASED)])
    assert circuit.enabled
    assert not circuit.download


def test_tight_reset_enters_download_mode() -> None:
    circuit = powered()
    play(circuit, [(0, RELEASED), (0, BOTH), (0, IN_RESET), (0.1, BOOT), (0.05, RELEASED), (0, RELEASED)])
    assert circuit.enabled
    assert circuit.download


def test_hard_reset_boots_the_application() -> None:
    circuit = powered()
    now = play(circuit, [(0, IN_RESET), (0.1, RELEASED)])
    assert not circuit.enabled
    circuit.advance(now + EN_RISE_S)
    assert circuit.enabled
    assert not circuit.download


@given(histories)
def test_en_is_high_exactly_when_nothing_pulled_it_for_the_rise_time(history: list[tuple[float, object]]) -> None:
    circuit = ResetCircuit()
    now, state, on = 0.0, RELEASED, False
    free_since: float | None = None
    for delay, change in history:
        now += delay
        if isinstance(change, bool):
            on = change
            circuit.set_power(on, now)
        else:
            assert isinstance(change, ModemLines)
            state = change
            circuit.set_lines(state, now)
        pulled = not on or state == IN_RESET
        free_since = None if pulled else now if free_since is None else free_since
        circuit.advance(now)
        if free_since is None:
            assert not circuit.enabled
            assert circuit.rises_at is None
        elif circuit.enabled:
            assert now >= free_since + EN_RISE_S
        else:
            assert circuit.rises_at == free_since + EN_RISE_S > now


@given(histories, st.lists(gaps, max_size=30))
def test_looking_more_often_changes_nothing(history: list[tuple[float, object]], looks: list[float]) -> None:
    seldom, often = ResetCircuit(), ResetCircuit()
    now = 0.0
    for index, (delay, change) in enumerate(history):
        if index < len(looks):
            often.advance(now + min(looks[index], delay))
        now += delay
        for circuit in (seldom, often):
            if isinstance(change, bool):
                circuit.set_power(change, now)
            else:
                assert isinstance(change, ModemLines)
                circuit.set_lines(change, now)
        assert (seldom.enabled, seldom.download, seldom.rises_at) == (often.enabled, often.download, often.rises_at)


def test_slow_classic_reset_becomes_tight() -> None:
    joined = SequentialLines()
    assert joined.change(IN_RESET, 0.0) == IN_RESET
    assert joined.change(BOTH, 0.1) is None
    assert joined.change(BOTH, 0.12) is None
    assert joined.expire(0.14) is None
    assert joined.change(BOOT, 0.15) == BOOT
    assert joined.due is None
    assert joined.change(RELEASED, 0.2) == RELEASED


def test_both_lines_are_applied_late_if_nothing_follows() -> None:
    joined = SequentialLines()
    joined.change(IN_RESET, 0.0)
    joined.change(BOTH, 1.0)
    assert joined.due == 1.0 + HOLD_BACK_S
    assert joined.expire(1.0 + HOLD_BACK_S) == BOTH
    assert joined.expire(9.0) is None


@given(st.lists(st.tuples(st.floats(min_value=0, max_value=0.5), lines), max_size=30))
def test_joined_lines_end_where_the_sender_wants_them(history: list[tuple[float, ModemLines]]) -> None:
    joined = SequentialLines()
    now, applied, wanted = 0.0, RELEASED, RELEASED
    for delay, wanted in history:
        now += delay
        applied = joined.expire(now) or applied
        applied = joined.change(wanted, now) or applied
        assert applied == wanted or (wanted == BOTH and applied == IN_RESET and joined.due is not None)
    assert (joined.expire(now + HOLD_BACK_S) or applied) == wanted == joined.asked


@given(st.binary(max_size=64), st.floats(min_value=-0.03, max_value=0.03))
def test_bytes_survive_a_small_baud_difference(data: bytes, difference: float) -> None:
    sent = 115200
    sampled = round(sent * (1 + difference))
    assert resample(data, sent, sampled) == data
    assert bauds_match(sent, round(sent * (1 + difference * 0.99)))


@pytest.mark.parametrize(("sent", "sampled"), [(115200, 921600), (921600, 115200), (115200, 74880), (74880, 115200)])
def test_a_wrong_baud_rate_gives_repeatable_garbage(sent: int, sampled: int) -> None:
    text = b"ets Jul 29 2019 12:21:46\r\n"
    garbage = resample(text, sent, sampled)
    assert garbage
    assert garbage == resample(text, sent, sampled)
    assert b"ets" not in garbage
    assert not bauds_match(sent, sampled)


@given(st.binary(max_size=64), st.integers(50, 4_000_000), st.integers(50, 4_000_000))
def test_any_rates_end_in_some_bytes(data: bytes, sent: int, sampled: int) -> None:
    assert len(resample(data, sent, sampled)) <= len(data) * 10


def test_faults_are_repeatable_and_as_frequent_as_asked() -> None:
    data = bytes(10_000)
    faults = Faults(lose_byte=0.1, flip_bit=0.05, seed=7)
    arrived = LineFaults(faults, "to the host").apply(data)
    assert arrived == LineFaults(faults, "to the host").apply(data)
    assert arrived != LineFaults(faults, "to the chip").apply(data)
    assert 0.08 < 1 - len(arrived) / len(data) < 0.12
    flipped = [byte for byte in arrived if byte]
    assert 0.03 < len(flipped) / len(arrived) < 0.07
    assert all(byte.bit_count() == 1 for byte in flipped)
    assert LineFaults(Faults(), "to the host").apply(data) is data
