"""UART0 of a virtual chip: the `machine.Uart` that a program sees, and the host ports at the other end of the wire."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pytest_hut.bench.virtual_board import Faults
from pytest_hut.virtual.machine import ChipStopped
from pytest_hut.virtual.noise import LineFaults, bauds_match, resample, wire_seconds

ROM_BAUD = 115200
"""What every ESP32 ROM speaks before anybody asks for something else."""

HOST_STALL_S = 0.3
"""How long a host that has the port open may stop reading before a paced board loses bytes, as its driver's buffer
(64 KiB at 2 Mbaud) would allow. An unpaced board waits as long as it takes."""

_CHUNK_BYTES = 256
_CHUNK_S = 0.001
_RECEIVED_CHUNK_S = 0.04
"""What the chip takes off the wire at once, where so much is waiting: a host that sends that much sends a packet, and
a bench of many boards must not wake up for each millisecond of each of them."""
_UNPACED_CHUNK_BYTES = 65536
_CATCH_UP_S = 0.005


class BrownedOut(ChipStopped):
    """The supply sagged at the time the faults ask for; the board's to handle, programs let it pass."""


class HostPort(Protocol):
    """A way by which a host reaches the wire: a local tty or a network port."""

    def host_baud(self) -> int | None:
        """Return the host's baud rate, None while no host has the port open."""

    def send(self, data: bytes, patience_s: float | None, stopped: Callable[[], bool]) -> None:
        """Deliver to the host.

        The rest is dropped if the host does not read for `patience_s` seconds (None: it may take for ever), if it
        leaves, or once `stopped()`.
        """

    def receive(self, limit: int) -> bytes:
        """Return up to `limit` bytes of the host's that have arrived, without waiting."""

    def interrupt(self) -> None:
        """Make a waiting `send` look at `stopped` again."""


class _Pacer:
    """When bytes are through, for one direction of the wire."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def through_at(self, count: int, baud: int) -> float:
        """Put `count` bytes on the wire behind those already there; return the time the last one is through.

        A wire that was idle only for as long as a scheduler oversleeps counts as busy, so that the rate holds.
        """
        now = time.monotonic()
        start = self._free_at if now - self._free_at < _CATCH_UP_S else now
        self._free_at = start + wire_seconds(count, baud)
        return self._free_at


class WireUart:
    """Implements `machine.Uart` over any number of host ports.

    The chip's thread calls `read`, `write`, `pause` and `adopt_host_baud`; other threads only `stop`, `notify`,
    `set_faults`. `first_byte_sent` is called, once a start of the chip, after its first byte went out.
    """

    def __init__(self, *, paced: bool, faults: Faults) -> None:
        self.baud = ROM_BAUD
        self.first_byte_sent: Callable[[], None] | None = None
        self.bytes_heard = 0
        """Bytes of hosts that passed the wire to the chip, whatever became of them."""
        self.bytes_said = 0
        """Bytes of the chip that passed it the other way while a host had the port open."""
        self._paced = paced
        self._ports: list[HostPort] = []
        self._last_heard: HostPort | None = None
        self._brownout_at: float | None = None
        self._stopped = threading.Event()
        self._stopped.set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrivals = select.epoll()
        self._arrivals.register(self._wake, select.EPOLLIN)
        self._sent = _Pacer()
        self._received = _Pacer()
        self.set_faults(faults)

    # -- the board's side

    def attach(self, port: HostPort) -> None:
        """Connect a host port; before the chip starts."""
        self._ports.append(port)

    def watch(self, fd: int) -> None:
        """Wake a waiting `read` when `fd` becomes readable; closing `fd` ends that."""
        self._arrivals.register(fd, select.EPOLLIN | select.EPOLLET)

    def notify(self) -> None:
        """Tell a waiting `read` that a port without a descriptor of its own has something."""
        os.eventfd_write(self._wake, 1)

    def set_faults(self, faults: Faults) -> None:
        """Replace what goes wrong on the wire from now on."""
        self._silent = faults.silent
        self._tx_faults = LineFaults(faults, "to the host")
        self._rx_faults = LineFaults(faults, "to the chip")

    def start(self, brownout_at: float | None) -> None:
        """Come out of reset: fresh baud rate, nothing received, a brown-out at `brownout_at` (monotonic) if any."""
        self._stopped.clear()
        self._brownout_at = brownout_at
        self.baud = ROM_BAUD
        for port in self._ports:
            while port.receive(_UNPACED_CHUNK_BYTES):
                pass

    def clear_brownout(self) -> None:
        """Let the chip go on after the brown-out; on the chip's thread."""
        self._brownout_at = None

    def stop(self) -> None:
        """Raise `ChipStopped` out of the running program, at once."""
        self._stopped.set()
        self.notify()
        for port in self._ports:
            port.interrupt()

    def close(self) -> None:
        """Free the descriptors; the chip's thread must have ended."""
        self._arrivals.close()
        os.close(self._wake)

    # -- the program's side

    def read(self, timeout: float | None) -> bytes:
        """See `machine.Uart.read`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._drain_wake()
            self._check()
            if arrived := self._receive():
                return arrived
            until = self._earlier(deadline)
            wait_s = None if until is None else until - time.monotonic()
            if wait_s is not None and wait_s <= 0:
                self._check()
                return b""
            self._arrivals.poll(wait_s)

    def write(self, data: bytes) -> None:
        """See `machine.Uart.write`. Bytes that no host listens to are lost, but still take their time."""
        patience_s = HOST_STALL_S if self._paced else None
        size = self._chunk_size(self.baud)
        for begin in range(0, len(data), size):
            chunk = data[begin : begin + size]
            if self._paced:
                self._pause_until(self._sent.through_at(len(chunk), self.baud))
            else:
                self._check()
            if self._silent:
                continue
            self._deliver(self._tx_faults.apply(chunk), patience_s)
            if self.first_byte_sent is not None:
                first_byte_sent, self.first_byte_sent = self.first_byte_sent, None
                first_byte_sent()
        self._check()

    def adopt_host_baud(self) -> None:
        """See `machine.Uart.adopt_host_baud`; the host is the one heard last, without one any that is there."""
        ports = [self._last_heard] if self._last_heard is not None else []
        for port in ports + self._ports:
            if (baud := port.host_baud()) is not None:
                self.baud = baud
                return

    def pause(self, seconds: float) -> None:
        """Let time pass on the chip (`Machine.sleep`)."""
        self._pause_until(time.monotonic() + seconds)

    # -- inside

    def _deliver(self, data: bytes, patience_s: float | None) -> None:
        for port in self._ports:
            host_baud = port.host_baud()
            if host_baud is None:
                continue
            heard = data if bauds_match(self.baud, host_baud) else resample(data, self.baud, host_baud)
            if heard:
                self.bytes_said += len(heard)
                port.send(heard, patience_s, self._stopped.is_set)

    def _receive(self) -> bytes:
        for port in self._ports:
            while True:
                host_baud = port.host_baud() or self.baud
                sent = port.receive(self._received_chunk_size(host_baud))
                if not sent:
                    break
                self._last_heard = port
                self.bytes_heard += len(sent)
                if self._paced:
                    self._pause_until(self._received.through_at(len(sent), host_baud))
                heard = sent if bauds_match(self.baud, host_baud) else resample(sent, host_baud, self.baud)
                heard = self._rx_faults.apply(heard)
                if heard and not self._silent:
                    return heard
        return b""

    def _chunk_size(self, baud: int) -> int:
        """Bytes that share one wait: what the wire carries in a millisecond, or as much as possible on no wire."""
        if not self._paced:
            return _UNPACED_CHUNK_BYTES
        return min(_CHUNK_BYTES, max(1, int(_CHUNK_S / wire_seconds(1, baud))))

    def _received_chunk_size(self, baud: int) -> int:
        if not self._paced:
            return _UNPACED_CHUNK_BYTES
        return max(1, int(_RECEIVED_CHUNK_S / wire_seconds(1, baud)))

    def _pause_until(self, moment: float) -> None:
        until = self._earlier(moment)
        assert until is not None
        wait_s = until - time.monotonic()
        if wait_s > 0:
            self._stopped.wait(wait_s)
        self._check()

    def _earlier(self, moment: float | None) -> float | None:
        if self._brownout_at is None or moment is None:
            return moment if self._brownout_at is None else self._brownout_at
        return min(moment, self._brownout_at)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise ChipStopped
        if self._brownout_at is not None and time.monotonic() >= self._brownout_at:
            raise BrownedOut

    def _drain_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
