"""The pytest plugin: a translation of pytest's words into ours.

Loaded in every pytest run of the machine, so nothing heavy is imported before a slot is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_hut.pytest_plugin.fixtures import flashed_firmware, hut_held_slot, hut_slot, hut_slots, power_relay
from pytest_hut.pytest_plugin.options import add_options, asked_slots

if TYPE_CHECKING:
    from pytest_hut.pytest_plugin.worker import SlotWorker

__all__ = ["flashed_firmware", "hut_held_slot", "hut_slot", "hut_slots", "power_relay"]

MARKERS = (
    'hw_test(id): the hardware test this is, e.g. hw_test("HW-BOOT-001"); named in reports.',
    "hut(chip=..., features=[...], firmware=..., count=...): what the test needs of its slot, which firmware it "
    "flashes, how many boards it needs at once.",
    "hut_each: run the test once on every slot of the session that fits it.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--hut-` options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Become the controller or a worker of a session that uses slots; otherwise do next to nothing."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is not None:
        if "hut" in worker_input:
            from pytest_hut.pytest_plugin.worker import SlotWorker

            config.pluginmanager.register(SlotWorker.from_controller(config, worker_input["hut"]), "hut-worker")
    elif asked_slots(config):
        from pytest_hut.pytest_plugin.controller import SlotController

        config.pluginmanager.register(SlotController.from_options(config), "hut-controller")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per slot out of a test marked `hut_each`."""
    worker: SlotWorker | None = metafunc.config.pluginmanager.get_plugin("hut-worker")
    if worker is None or "hut_held_slot" not in metafunc.fixturenames:
        return
    if metafunc.definition.get_closest_marker("hut_each") is not None:
        slots = worker.fitting_slots(metafunc.definition)
        metafunc.parametrize("hut_held_slot", slots, indirect=True, scope="session", ids=slots)
    elif other := worker.other_slot_for(metafunc.definition):
        metafunc.parametrize("hut_held_slot", [other], indirect=True, scope="session", ids=[other])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` means one worker per slot."""
    if not asked_slots(config):
        return None
    from pytest_hut.errors import ConfigError
    from pytest_hut.pytest_plugin.choice import choice_from_options

    try:
        return choice_from_options(config).count
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
