"""Starting virtual boards for a session, and putting their ports and relays where slots.toml would have them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pytest_hut.bench.models import Bench, HomeAssistant, HomeAssistantRelay
from pytest_hut.bench.places import user_state_dir

if TYPE_CHECKING:
    from pytest_hut.virtual.client import VirtualBenchProcess


class VirtualSlots:
    """A context manager that serves the virtual ones among some slots; `bench` is the bench with them plugged in."""

    def __init__(self, bench: Bench, slot_ids: list[str]) -> None:
        self.bench = bench
        self._process: VirtualBenchProcess | None = None
        virtual = [bench.slots[slot_id] for slot_id in slot_ids if bench.slots[slot_id].virtual]
        if virtual:
            from pytest_hut.virtual.client import start_virtual_bench

            self._process = start_virtual_bench([slot.virtual_spec() for slot in virtual], user_state_dir() / "virtual")
            self.bench = plug_in(bench, self._process.describe)

    def __enter__(self) -> VirtualSlots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.close()


def plug_in(bench: Bench, served: dict[str, object]) -> Bench:
    """Return `bench` with the ports and relays of the boards that a virtual bench says it serves."""
    server = HomeAssistant.model_validate(served["home_assistant"])
    boards = served["boards"]
    assert isinstance(boards, dict)
    slots = dict(bench.slots)
    for slot_id, board in boards.items():
        relay = HomeAssistantRelay(driver="home-assistant", entity=board["relay"], server=server)
        slots[slot_id] = slots[slot_id].model_copy(update={"port": board["port"], "relay": relay})
    return bench.model_copy(update={"slots": slots})
