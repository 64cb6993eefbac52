"""What a board itself shows of a power cycle, which proves more than any relay says."""

from __future__ import annotations

from collections.abc import Callable

from pytest_hut.board.console import QUIET_S, Console
from pytest_hut.board.reader import Heard
from pytest_hut.errors import PortError

PORT_BACK = "port back"
ROM_BANNER = "ROM banner"


class PowerProof:
    """Follows one power cycle: `while_off` and `after_on` are for `Relay.cycle`."""

    def __init__(self, console: Console, heard: Heard, wait_for_port: Callable[[], None], *, bus_powered: bool) -> None:
        self._console = console
        self._heard = heard
        self._wait_for_port = wait_for_port
        self._bus_powered = bus_powered
        self._port_went = False
        self.port_error: PortError | None = None
        """Set when the port did not come back."""

    def while_off(self) -> None:
        """Note what is gone, and begin to judge the board's next boot."""
        self._port_went = self._heard.lost_s is not None
        self._console.mark_reset()

    def after_on(self) -> tuple[str, ...]:
        """Return what shows that power went and came back.

        A port that hangs on the switched supply goes and returns with it, and loses the ROM's lines meanwhile. On any
        other the ROM speaks within milliseconds.
        """
        if self._bus_powered:
            try:
                self._wait_for_port()
            except PortError as error:
                self.port_error = error
                return ()
            return (PORT_BACK,) if self._port_went else ()
        with self._heard.changed:
            self._heard.changed.wait_for(lambda: self._console.latest_boot() is not None, QUIET_S)
        return (ROM_BANNER,) if self._console.latest_boot() is not None else ()
