"""A bench of virtual boards in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.virtual.board import VirtualBoard
from pytest_hut.virtual.home_assistant_states import entity_id
from pytest_hut.virtual.programs import ChipPrograms, espressif_programs
from pytest_hut.virtual.reactor import Reactor
from pytest_hut.virtual.relay_server import RelayServer


class VirtualBench:
    """Context manager: inside it, all boards and their relays are there.

    Each board's state is in `state_dir/<slot id>` and outlives the bench; ports, sockets and the token are in
    `runtime_dir` and do not.
    """

    def __init__(
        self,
        specs: Sequence[VirtualBoardSpec],
        state_dir: Path,
        runtime_dir: Path,
        *,
        rfc2217: bool = True,
        rfc2217_ports: Mapping[str, int] | None = None,
        programs: ChipPrograms | None = None,
    ) -> None:
        """`rfc2217_ports` maps slot ids to TCP ports, others get a free one; `programs` None is what the chips run."""
        self._specs = specs
        self._state_dir = state_dir
        self._runtime_dir = runtime_dir
        self._rfc2217 = rfc2217
        self._rfc2217_ports = rfc2217_ports or {}
        self._programs = programs
        self._stack = ExitStack()
        self.boards: dict[str, VirtualBoard] = {}
        """By slot id."""

    def __enter__(self) -> VirtualBench:
        """Start everything. Raises what `VirtualBoard` raises; nothing is left behind then."""
        with ExitStack() as stack:
            stack.callback(self._remove_folders)
            self._runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.reactor = reactor = Reactor()
            stack.callback(reactor.close)
            try:
                self._start(reactor, stack)
            except BaseException:
                reactor.stop()
                raise
            stack.callback(reactor.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.boards.clear()

    def describe(self) -> dict[str, Any]:
        """Return how to reach everything, JSON-ready; no secrets in it."""
        return {
            "home_assistant": {"url": self.relays.url, "credentials": str(self.relays.credentials)},
            "boards": {
                slot_id: board.describe() | {"relay": entity_id(slot_id)} for slot_id, board in self.boards.items()
            },
        }

    def wire(self) -> dict[str, dict[str, int]]:
        """Return by slot id how many bytes have passed each board's wire, see `VirtualBoard.wire`."""
        return {slot_id: board.wire() for slot_id, board in self.boards.items()}

    def _start(self, reactor: Reactor, stack: ExitStack) -> None:
        programs = self._programs or espressif_programs()
        for spec in self._specs:
            board = VirtualBoard(
                spec,
                self._state_dir / spec.slot_id,
                self._runtime_dir,
                reactor,
                programs,
                rfc2217=self._rfc2217,
                rfc2217_tcp_port=self._rfc2217_ports.get(spec.slot_id, 0),
            )
            stack.callback(board.close)
            self.boards[spec.slot_id] = board
        self.relays = RelayServer(self.boards, reactor, self._runtime_dir / "credentials")
        stack.callback(self.relays.close)

    def _remove_folders(self) -> None:
        """Remove what is empty now; a folder that somebody else put a file into stays."""
        for folder in ("by-id", "credentials", "."):
            with suppress(OSError):
                (self._runtime_dir / folder).rmdir()
