"""The chip itself: it starts when EN rises, runs one program after the other, and stops when EN falls."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from pytest_hut.bench.virtual_board import Faults, VirtualBoardSpec
from pytest_hut.virtual.circuit import ModemLines, ResetCircuit
from pytest_hut.virtual.machine import ChipStopped, Flash, Machine, Program, ResetCause
from pytest_hut.virtual.programs import ChipPrograms
from pytest_hut.virtual.uart import BrownedOut, WireUart

_RESTART_S = 0.001
"""The least time between two starts of a chip that resets itself."""
_STOP_S = 0.1
"""How long a program that computes may take to notice that its chip is in reset."""


class Chip:
    """A thread that is the chip. Lines, power and faults are set from other threads.

    `on_first_byte` is called on the chip's thread after each start outside download mode that sends anything.
    """

    def __init__(
        self,
        spec: VirtualBoardSpec,
        mac: bytes,
        flash: Flash,
        uart: WireUart,
        programs: ChipPrograms,
        on_first_byte: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._mac = mac
        self._flash = flash
        self._uart = uart
        self._programs = programs
        self._on_first_byte = on_first_byte
        self._faults = spec.faults
        self._faults_taken: set[str] = set()
        self._changed = threading.Condition()
        self._circuit = ResetCircuit()
        self._ending = False
        self._running = False
        self._download = False
        self._started_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"virtual chip {spec.slot_id}", daemon=True)

    def start(self) -> None:
        """Begin to exist, without power."""
        self._thread.start()

    def close(self) -> None:
        """Stop the running program and end the thread."""
        with self._changed:
            self._ending = True
            self._uart.stop()
            self._changed.notify_all()
        self._thread.join()

    def set_lines(self, lines: ModemLines) -> None:
        """Set DTR and RTS at once."""
        with self._changed:
            self._circuit.set_lines(lines, time.monotonic())
            self._follow_circuit()

    def set_power(self, on: bool) -> None:
        """Switch the chip's supply."""
        with self._changed:
            self._circuit.set_power(on, time.monotonic())
            self._follow_circuit()

    def set_faults(self, faults: Faults) -> None:
        """Replace the faults; a brown-out is counted from the next start of the application."""
        with self._changed:
            self._faults = faults
            self._faults_taken.clear()
            self._uart.set_faults(faults)

    def _follow_circuit(self) -> None:
        """Stop the chip, or let it start. When this returns after EN fell, the old program has sent its last byte."""
        if not self._circuit.enabled:
            self._uart.stop()
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._circuit.enabled or not self._running, _STOP_S)

    def _run(self) -> None:
        while self._come_out_of_reset():
            self._run_until_stopped()
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _come_out_of_reset(self) -> bool:
        """Wait for EN; False when the chip ends instead."""
        with self._changed:
            while not self._ending:
                now = time.monotonic()
                self._circuit.advance(now)
                if self._circuit.enabled:
                    self._download = self._circuit.download
                    self._begin()
                    return True
                rises_at = self._circuit.rises_at
                self._changed.wait(None if rises_at is None else rises_at - now)
            return False

    def _begin(self) -> None:
        """Set the hardware up for the next start; the caller holds the lock and knows that EN is high."""
        self._running = True
        self._started_at = time.monotonic()
        after_s = None if self._download else self._faults.brownout_after_s
        self._uart.start(None if after_s is None else self._started_at + after_s)
        self._uart.first_byte_sent = None if self._download else self._on_first_byte

    def _run_until_stopped(self) -> None:
        """Run from one EN rise to the next fall, through all resets the chip does to itself."""
        cause = ResetCause.POWER_ON
        try:
            while True:
                program = self._programs.download if self._download else self._programs.boot
                cause = self._run_program(program, cause)
                self._uart.clear_brownout()
                self._uart.pause(_RESTART_S)
                self._restart()
        except ChipStopped:
            return

    def _run_program(self, program: Program, cause: ResetCause) -> ResetCause:
        try:
            return program(self._machine(cause))
        except BrownedOut:
            self._uart.clear_brownout()
            self._uart.write(b"\r\nBrownout detector was triggered\r\n")
            return ResetCause.BROWN_OUT
        except ChipStopped:
            raise
        except Exception:  # noqa: BLE001 - a program that fails is a chip that hangs; the server's log says why
            traceback.print_exc()
            self._uart.clear_brownout()
            while True:  # until somebody resets it
                self._uart.read(None)

    def _restart(self) -> None:
        """Reset from inside: the boot straps keep what they were only for resets through EN."""
        with self._changed:
            if self._circuit.enabled and not self._ending:
                self._download = False
                self._begin()
            else:
                raise ChipStopped

    def _machine(self, cause: ResetCause) -> Machine:
        started_at = self._started_at
        return Machine(
            spec=self._spec,
            uart=self._uart,
            flash=self._flash,
            mac=self._mac,
            reset_cause=cause,
            download=self._download,
            sleep=self._uart.pause,
            uptime_s=lambda: time.monotonic() - started_at,
            take_fault=self._take_fault,
        )

    def _take_fault(self, name: str) -> bool:
        with self._changed:
            if getattr(self._faults, name) is not True or name in self._faults_taken:
                return False
            self._faults_taken.add(name)
            return True
