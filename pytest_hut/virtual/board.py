"""A whole virtual board: chip, supply, USB adapter and the two ports a host can reach it by."""

from __future__ import annotations

import hashlib
import re
import select
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inotify_simple import INotify, flags

from pytest_hut.bench.virtual_board import Faults, VirtualBoardSpec
from pytest_hut.errors import InfrastructureError
from pytest_hut.virtual.chip import Chip
from pytest_hut.virtual.circuit import ModemLines
from pytest_hut.virtual.lines_socket import LinesSocket, fits_unix_socket, lines_path
from pytest_hut.virtual.programs import ChipPrograms
from pytest_hut.virtual.reactor import Reactor
from pytest_hut.virtual.rfc2217_port import Rfc2217Port
from pytest_hut.virtual.tty_port import TtyPort
from pytest_hut.virtual.uart import WireUart

UNPLUG_S = 0.05
"""From power off to the disappearance of a bus-powered adapter's port."""
ENUMERATION_S = 0.3
"""From power on to its return; the chip boots meanwhile, heard by nobody."""


def board_mac(spec: VirtualBoardSpec) -> bytes:
    """Return the six bytes of the base MAC: the spec's, or a locally administered one from the slot id.

    Raises ValueError if the spec's is none.
    """
    if spec.mac is not None:
        if re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", spec.mac) is None:
            raise ValueError(f"not a MAC address: {spec.mac}")
        return bytes.fromhex(spec.mac.replace(":", ""))
    digest = hashlib.sha256(spec.slot_id.encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


def device_path(spec: VirtualBoardSpec, runtime_dir: Path) -> Path:
    """Where the board's tty appears."""
    return runtime_dir / "by-id" / f"usb-Virtual_{spec.slot_id}_{board_mac(spec).hex().upper()}-if00-port0"


class VirtualBoard:
    """One board on the bench; usable from any thread.

    Flash content and the state of the relay live in `state_dir` and outlive the board. Several servers may serve the
    same state, as when sessions take turns at a slot: they see the same flash, and a relay switched in one of them
    switches all. Who may use the board when is for the slot's lock to say.
    """

    def __init__(
        self,
        spec: VirtualBoardSpec,
        state_dir: Path,
        runtime_dir: Path,
        reactor: Reactor,
        programs: ChipPrograms,
        *,
        rfc2217: bool = True,
        rfc2217_tcp_port: int = 0,
    ) -> None:
        """Put the board together, switched on unless the last one in `state_dir` was switched off.

        Raises InfrastructureError if `runtime_dir` is too long a path for a
        unix socket, or if the TCP port is taken; ValueError if the flash file does not fit the spec.
        """
        self.spec = spec
        self.mac = board_mac(spec)
        self.device = device_path(spec, runtime_dir)
        if not fits_unix_socket(lines_path(self.device)):
            raise InfrastructureError(f"{lines_path(self.device)} is too long for a unix socket: use a shorter folder")
        state_dir.mkdir(parents=True, exist_ok=True)
        self._power_file = state_dir / "power"
        self._reactor = reactor
        self._lock = threading.RLock()
        self._faults = spec.faults
        self._powered = False
        self._adapter_powered = True
        self._unplugged = False
        self._vanish_armed = True
        with ExitStack() as undo:
            self._uart = WireUart(paced=spec.paced, faults=spec.faults)
            undo.callback(self._uart.close)
            flash = programs.open_flash(state_dir / "flash.bin", spec.flash_size)
            self._rfc2217 = self._open_rfc2217(rfc2217_tcp_port) if rfc2217 else None
            undo.pop_all()
        self._chip = Chip(spec, self.mac, flash, self._uart, programs, self._first_byte_sent)
        self._lines = LinesSocket(self.device, reactor, self.set_lines)
        self._tty = TtyPort(self.device, reactor, self._uart.watch)
        self._uart.attach(self._tty)
        if self._rfc2217 is not None:
            self._uart.attach(self._rfc2217)
        self._chip.start()
        self._power_watch = INotify()
        self._power_watch.add_watch(state_dir, flags.MOVED_TO)
        reactor.register(self._power_watch.fileno(), select.EPOLLIN, self._power_file_changed)
        on = _read_power(self._power_file)
        self._adapter_powered = on or not spec.bus_powered
        self._show_ports()
        self._apply_power(on)

    def close(self) -> None:
        """Take the board off the bench; the reactor must have stopped. Its state stays in `state_dir`."""
        self._chip.close()
        if self._rfc2217 is not None:
            self._rfc2217.close()
        self._lines.vanish()
        self._tty.close()
        self._uart.close()
        self._reactor.unregister(self._power_watch.fileno())
        self._power_watch.close()

    @property
    def rfc2217_url(self) -> str | None:
        """pyserial's URL of the network port, None without one."""
        return self._rfc2217.url if self._rfc2217 is not None else None

    @property
    def powered(self) -> bool:
        """Whether the relay is on: what the state file says now, which the board then follows."""
        with self._lock:
            self._apply_power(_read_power(self._power_file))
            return self._powered

    def power(self, on: bool) -> bool:
        """Switch the relay, record it, and return whether that changed anything."""
        with self._lock:
            changed = self.powered is not on
            if changed:
                _write_power(self._power_file, on)
                self._apply_power(on)
            return changed

    @property
    def faults(self) -> Faults:
        """What goes wrong at present."""
        return self._faults

    def set_faults(self, faults: Faults) -> None:
        """Replace all faults. Those counted from a start of the chip begin with the next one."""
        with self._lock:
            self._faults = faults
            self._vanish_armed = True
        self._chip.set_faults(faults)

    def set_lines(self, lines: ModemLines) -> None:
        """Set the adapter's DTR and RTS at once."""
        self._chip.set_lines(lines)

    def describe(self) -> dict[str, Any]:
        """Return how to reach the board, JSON-ready."""
        return {
            "port": str(self.device),
            "rfc2217": self.rfc2217_url,
            "mac": self.mac.hex(":"),
            "chip": self.spec.chip,
        }

    def wire(self) -> dict[str, int]:
        """Return how many bytes have passed the wire since the board was put together, JSON-ready."""
        return {"to_chip": self._uart.bytes_heard, "from_chip": self._uart.bytes_said}

    # -- inside

    def _open_rfc2217(self, tcp_port: int) -> Rfc2217Port:
        try:
            return Rfc2217Port(self._reactor, self.set_lines, self._uart.notify, tcp_port)
        except OSError as error:
            raise InfrastructureError(f"TCP port {tcp_port} for {self.spec.slot_id}: {error.strerror}") from error

    def _apply_power(self, on: bool) -> None:
        if on is self._powered:
            return
        self._powered = on
        self._chip.set_power(on)
        if self.spec.bus_powered and on is not self._adapter_powered:
            self._reactor.call_later(ENUMERATION_S if on else UNPLUG_S, self._adapter_follows_power)

    def _power_file_changed(self) -> None:
        self._power_watch.read(timeout=0)
        with self._lock:
            self._apply_power(_read_power(self._power_file))

    def _adapter_follows_power(self) -> None:
        with self._lock:
            self._adapter_powered = self._powered
            self._show_ports()

    def _first_byte_sent(self) -> None:
        """On the chip's thread, which must not wait for whoever waits for it to stop."""
        self._reactor.call_later(0, self._start_vanishing)

    def _start_vanishing(self) -> None:
        with self._lock:
            if self._faults.vanish_after_s is None or not self._vanish_armed:
                return
            self._vanish_armed = False
            self._reactor.call_later(self._faults.vanish_after_s, self._unplug)

    def _unplug(self) -> None:
        with self._lock:
            self._unplugged = True
            self._show_ports()
            self._reactor.call_later(self._faults.vanish_for_s, self._plug_in)

    def _plug_in(self) -> None:
        with self._lock:
            self._unplugged = False
            self._show_ports()

    def _show_ports(self) -> None:
        if self._adapter_powered and not self._unplugged:
            self._lines.appear()  # before the device, so that whoever sees that finds its lines
            self._tty.appear()
            if self._rfc2217 is not None:
                self._rfc2217.appear()
        else:
            self._tty.vanish()
            self._lines.vanish()
            if self._rfc2217 is not None:
                self._rfc2217.vanish()


def _read_power(path: Path) -> bool:
    try:
        return path.read_text().strip() != "off"
    except FileNotFoundError:
        return True


def _write_power(path: Path, on: bool) -> None:
    fresh = path.with_name(".power.new")
    fresh.write_text("on\n" if on else "off\n")
    fresh.replace(path)
