"""The fixtures a test asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_hut.pytest_plugin.options import lane_without_slots

if TYPE_CHECKING:
    from pytest_hut.board.slot import Firmware, HutSlot
    from pytest_hut.power.relay import Relay
    from pytest_hut.pytest_plugin.worker import SlotWorker

NO_SLOT = "needs a board: name its slot with --hut-slots=hut-01 (add --hut-virtual to run without hardware)"
NO_HARDWARE = "needs a board, and the upstream lane has none (--hut-lane=upstream; add --hut-virtual for virtual ones)"


def _worker(request: pytest.FixtureRequest) -> SlotWorker:
    worker: SlotWorker | None = request.config.pluginmanager.get_plugin("hut-worker")
    if worker is None:
        pytest.skip(NO_HARDWARE if lane_without_slots(request.config) else NO_SLOT)
    return worker


@pytest.fixture(scope="session")
def hut_held_slot(request: pytest.FixtureRequest) -> Iterator[HutSlot]:
    """The slot of this worker, locked and open from its first use to the end of the worker's session."""
    with _worker(request).hold(getattr(request, "param", None)) as slot:
        yield slot


@pytest.fixture
def hut_slot(request: pytest.FixtureRequest, hut_held_slot: HutSlot) -> HutSlot:
    """The board of this worker: `.console`, `.reset()`, `.boot()`, `.cold_boot()`, and facts about it.

    A test marked `hut(chip=..., features=[...])` is skipped where the slot does not have that.
    """
    _worker(request).require_fit(request.node, hut_held_slot.config)
    return hut_held_slot


@pytest.fixture
def power_relay(hut_slot: HutSlot) -> Relay:
    """The relay of the slot: `on`, `off`, `cycle(off_s=, on_s=)`, `state`; commands return a structured result."""
    return hut_slot.power


@pytest.fixture
def hut_slots(request: pytest.FixtureRequest, hut_slot: HutSlot) -> Iterator[list[HutSlot]]:
    """The boards of a test that needs several at once: as many as `hut(count=...)` says, two by default.

    The first is `hut_slot`. The others are taken for this test alone; each fits what its `hut` markers ask for.
    """
    with _worker(request).hold_team(request.node, hut_slot) as slots:
        yield slots


@pytest.fixture
def flashed_firmware(request: pytest.FixtureRequest, hut_slot: HutSlot) -> Firmware:
    """The firmware under test, proved to be on the board; flashed only where it is not there yet.

    It is that of `--hut-commit`, or what the marker `hut(firmware=...)` names, else `--hut-firmware`, else, on a
    virtual slot, the demo firmware.
    """
    worker = _worker(request)
    with worker.timing_flash(hut_slot):
        return hut_slot.flash(worker.firmware_for(request.node, hut_slot))
