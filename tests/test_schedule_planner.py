"""The schedule, without pytest and without boards: simulated sessions on benches of any kind."""

from __future__ import annotations

import heapq
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_hut.scheduling.bounds import least_makespan
from pytest_hut.scheduling.distribute import Lane, Task, distribute
from pytest_hut.scheduling.health import SlotHealth
from pytest_hut.scheduling.history import DEFAULT_FLASH_S, DEFAULT_TEST_S, History
from pytest_hut.scheduling.needs import Needs, SlotFacts, misfit, no_slot_reason
from pytest_hut.scheduling.planner import Planner

CHIPS = ("esp32", "esp32s3")


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[Needs], list[SlotFacts], list[float], float]:
    """Tests, slots, durations, seconds of a flash; every test has a slot that fits."""
    slots = [
        SlotFacts(f"hut-{number:02}", draw(st.sampled_from(CHIPS)), frozenset(draw(st.sets(st.sampled_from("ab")))))
        for number in range(draw(st.integers(1, 6)))
    ]
    tests = []
    for number in range(draw(st.integers(0, 25))):
        needs = Needs(
            f"t{number}",
            uses_slot=draw(st.booleans()),
            chips=draw(st.sampled_from([None, *((chip,) for chip in CHIPS)])),
            features=tuple(draw(st.sets(st.sampled_from("ab"), max_size=1))),
            firmware=draw(st.sampled_from([None, "x", "y", "z"])),
            bound_to=draw(st.sampled_from([None, None, slots[0].id])),
        )
        if not needs.uses_slot:
            needs = Needs(needs.node_id)
        if no_slot_reason(needs, slots) is None:
            tests.append(needs)
    seconds = [draw(st.floats(0, 30)) for _ in tests]
    return tests, slots, seconds, draw(st.floats(0, 30))


CLOCK_S = 1e7
"""What the clock shows when a simulated session begins: a machine may have been up for months."""


def simulate(
    tests: list[Needs], slots: list[SlotFacts], seconds: list[float], flash_s: float, planner: Planner | None = None
) -> tuple[dict[int, str], float, int]:
    """Run a session as the plugin does, one test ahead; return who ran what, the makespan, and the flashes."""
    planner = planner or Planner(tests, slots, seconds=seconds, flash_s=flash_s)
    planner.add(range(len(tests)))
    ran: dict[int, str] = {}
    flashes, end = 0, CLOCK_S
    board: dict[str, str | None] = {slot.id: None for slot in slots}
    hands: dict[str, list[int]] = {slot.id: [] for slot in slots}
    events: list[tuple[float, str]] = []

    def begin(slot: str, now: float) -> None:
        nonlocal flashes
        firmware = tests[hands[slot][0]].firmware
        cost = seconds[hands[slot][0]]
        if firmware not in (None, board[slot]):
            flashes, cost, board[slot] = flashes + 1, cost + flash_s, firmware
        heapq.heappush(events, (now + cost, slot))

    def feed(slot: str, now: float) -> None:
        idle = not hands[slot]
        while len(hands[slot]) < 2 and (index := planner.take(slot, now)) is not None:
            hands[slot].append(index)
        if idle and hands[slot]:
            begin(slot, now)

    for slot in hands:
        feed(slot, CLOCK_S)
    while events:
        end, slot = heapq.heappop(events)
        index = hands[slot].pop(0)
        assert index not in ran
        ran[index] = slot
        planner.finished(slot, index, end)
        if hands[slot]:
            begin(slot, end)
        for every in hands:
            feed(every, end)
    return ran, end - CLOCK_S, flashes


@settings(deadline=None, max_examples=60)
@given(sessions())
def test_every_test_runs_once_on_a_slot_that_fits(
    session: tuple[list[Needs], list[SlotFacts], list[float], float],
) -> None:
    tests, slots, seconds, flash_s = session
    ran, makespan, flashes = simulate(tests, slots, seconds, flash_s)
    facts = {slot.id: slot for slot in slots}

    assert sorted(ran) == list(range(len(tests)))
    assert all(misfit(tests[index], facts[slot]) is None for index, slot in ran.items())
    pairs = {(slot, tests[index].firmware) for index, slot in ran.items() if tests[index].firmware}
    tasks = _tasks(tests, slots, seconds)
    assert makespan >= least_makespan(tasks, flash_s) - 1e-3
    # Graham's bound for lists, with a flash for every test; planning must never be worse than not planning.
    assert makespan <= sum(seconds) + flash_s * len(tests) + 1e-3
    # Equal firmware comes together, so a slot flashes each once; taking over costs one more at most where it paid.
    assert len(pairs) <= flashes <= len(pairs) + len(slots)


@settings(deadline=None, max_examples=40)
@given(sessions())
def test_a_plan_flashes_each_firmware_once_a_slot(
    session: tuple[list[Needs], list[SlotFacts], list[float], float],
) -> None:
    tests, slots, seconds, flash_s = session
    tasks = _tasks(tests, slots, seconds)
    lanes = [Lane(slot.id) for slot in slots]
    distribute(tasks, lanes, flash_s)

    assert sorted(task.index for lane in lanes for task in lane.tasks) == [task.index for task in tasks]
    assert max(lane.end(flash_s) for lane in lanes) >= least_makespan(tasks, flash_s) - 1e-3
    for lane in lanes:
        changes = [task.firmware for task in lane.tasks if task.firmware is not None]
        runs = [one for one, before in zip(changes, [None, *changes], strict=False) if one != before]
        assert len(runs) == len(set(runs)) == lane.flashes()
        assert all(lane.slot in task.fits for task in lane.tasks)


def test_the_bench_of_the_benchmark_is_near_its_bound() -> None:
    slots = [SlotFacts(f"hut-{n:02}", CHIPS[n % 2]) for n in range(8)]
    tests = [Needs(f"t{n}", True, chips=(CHIPS[n % 2],), firmware=f"fw-{n % 3}") for n in range(60)]
    seconds = [1.0 + (n * 7 % 11) / 2 for n in range(60)]

    _, makespan, flashes = simulate(tests, slots, seconds, 5.0)

    bound = least_makespan(_tasks(tests, slots, seconds), 5.0)
    assert makespan <= 1.15 * bound
    assert flashes <= 16


def test_two_firmwares_on_two_slots_are_flashed_once_each() -> None:
    """However short all of it is beside what the clock shows."""
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32")]
    tests = [Needs(f"t{n}", True, firmware="one" if n % 2 else "two") for n in range(8)]
    seconds = [0.7783, 0.8453, 0.6283, 0.6265, 0.6258, 0.6255, 0.6257, 0.6257]

    _, _, flashes = simulate(tests, slots, seconds, 0.484)

    assert flashes == 2


def test_one_firmware_is_not_spread_where_flashing_costs_more_than_it_saves() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32")]
    tests = [Needs(f"t{n}", True, firmware="x") for n in range(3)]

    ran, makespan, flashes = simulate(tests, slots, [1.0] * 3, 100.0)

    assert (makespan, flashes) == (102.0, 2) or (makespan, flashes) == (103.0, 1), ran


def test_an_idle_slot_takes_over_when_estimates_were_wrong() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32")]
    tests = [Needs(f"t{n}", True) for n in range(8)]
    planner = Planner(tests, slots, seconds=[1.0] * 8, flash_s=1.0)

    # The first of them takes a hundred times as long as expected.
    ran, makespan, _ = simulate(tests, slots, [100.0, *[1.0] * 7], 1.0, planner)

    assert sorted(ran) == list(range(8))
    # Only what was given out ahead stays with the busy slot.
    assert makespan <= 101.0
    assert list(ran.values()).count(ran[0]) <= 2


def test_what_a_dropped_slot_had_goes_to_the_others_or_comes_back() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32"), SlotFacts("hut-03", "esp32s3")]
    tests = [
        *(Needs(f"t{n}", True, chips=("esp32",)) for n in range(4)),
        Needs("only-s3", True, chips=("esp32s3",)),
        Needs("bound", True, bound_to="hut-03"),
        Needs("plain"),
    ]
    planner = Planner(tests, slots, seconds=[1.0] * 7, flash_s=1.0)
    planner.add(range(7))
    planner.plan(0.0)

    assert planner.drop("hut-03") == [4, 5]
    assert planner.drop("hut-01") == []
    assert [planner.take("hut-01", 0.0), planner.take("hut-03", 0.0)] in ([6, None], [None, 6], [None, None])
    taken = set()
    while (index := planner.take("hut-02", 0.0)) is not None:
        taken.add(index)
    assert {0, 1, 2, 3} <= taken
    assert planner.drop("hut-02") == []
    assert not planner.waiting


def test_a_failed_test_is_tried_once_elsewhere() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32")]
    planner = Planner([Needs("t", True)], slots, seconds=[1.0], flash_s=1.0)
    planner.add([0])
    first = next(slot.id for slot in slots if planner.take(slot.id, 0.0) is not None)
    other = next(slot.id for slot in slots if slot.id != first)

    assert planner.can_try_elsewhere(0, first)
    planner.finished(first, 0, 1.0)
    planner.avoid(0, first)
    planner.add([0])
    assert planner.take(first, 1.0) is None
    assert planner.take(other, 1.0) == 0
    assert not planner.can_try_elsewhere(0, other)


def test_a_team_gets_boards_that_fit() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32s3"), SlotFacts("hut-03", "esp32")]
    planner = Planner([Needs("pair", True, chips=("esp32",), count=2)], slots, seconds=[1.0], flash_s=1.0)
    planner.add([0])

    assert planner.take("hut-01", 0.0) is None
    assert planner.next_team(["hut-01", "hut-02"]) is None
    assert planner.next_team(["hut-01", "hut-02", "hut-03"]) == (0, ["hut-01", "hut-03"])
    assert planner.next_team(["hut-01", "hut-02", "hut-03"]) is None


def test_reasons_name_the_need() -> None:
    slots = [SlotFacts("hut-01", "esp32"), SlotFacts("hut-02", "esp32s3", frozenset({"psram"}))]

    assert no_slot_reason(Needs("t", True, chips=("esp32c3",)), slots) == (
        "no slot for it: needs chip esp32c3, but hut-01 has esp32; needs chip esp32c3, but hut-02 has esp32s3"
    )
    assert "ethernet" in (no_slot_reason(Needs("t", True, features=("ethernet",)), slots) or "")
    assert no_slot_reason(Needs("t", True, features=("psram",)), slots) is None
    assert no_slot_reason(Needs("t", features=("ethernet",)), slots) is None
    assert "needs 3 boards, 2 fit" in (no_slot_reason(Needs("t", True, count=3), slots) or "")


def test_health_counts_failures_in_a_row() -> None:
    health = SlotHealth(limit=2)

    assert not health.note("a", True)
    assert not health.note("b", False)
    assert not health.note("c", True)
    assert not health.note("c", True), "the teardown of a test that failed is no second failure"
    assert health.note("d", True)
    assert health.quarantined
    assert not health.note("e", True)
    assert not SlotHealth(limit=0, failures=99).quarantined


def test_history_remembers_and_forgives(tmp_path: Path) -> None:
    path = tmp_path / "state" / "durations.json"
    history = History.load(path)
    assert (history.seconds("a"), history.flash_s) == (DEFAULT_TEST_S, DEFAULT_FLASH_S)

    history.note("a", 2.0)
    history.note_flash(8.0)
    history.save()
    other = History.load(path)
    other.note("b", 4.0)
    history.note("a", 4.0)
    history.save()
    other.save()

    known = History.load(path)
    assert (known.seconds("a"), known.seconds("b"), known.seconds("new"), known.flash_s) == (3.0, 4.0, 3.5, 8.0)
    for damage in ("{", "[]", '{"tests": 1}', json.dumps({"tests": {"a": "x"}, "flash_s": -1})):
        path.write_text(damage)
        assert History.load(path).seconds("a") == DEFAULT_TEST_S


def _tasks(tests: list[Needs], slots: list[SlotFacts], seconds: list[float]) -> list[Task]:
    return [
        Task(n, seconds[n], needs.firmware, frozenset(slot.id for slot in slots if misfit(needs, slot) is None))
        for n, needs in enumerate(tests)
    ]
