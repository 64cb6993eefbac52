"""A serial line behind a pyserial URL, such as `socket://host:port`."""

from __future__ import annotations

import threading

import serial

from pytest_hut.errors import PortError
from pytest_hut.link.pyserial_port import PyserialPort

WAKE_S = 0.1
"""pyserial's network ports cannot be interrupted in mid-read: data ends a read at once, this bounds a silent one."""


class UrlLink(PyserialPort[serial.SerialBase]):
    """Any port that `serial.serial_for_url` opens."""

    def __init__(self, url: str, baudrate: int) -> None:
        super().__init__(url, baudrate)
        self._dtr = self._rts = True
        self._interrupted = threading.Event()

    def open(self, timeout_s: float) -> None:
        """See `Link.open`. A server that is not there yet is asked again until the time is over."""
        give_up = threading.Event()
        timer = threading.Timer(timeout_s, give_up.set)
        timer.start()
        try:
            while True:
                try:
                    self._port = serial.serial_for_url(self.name, self._baudrate, timeout=WAKE_S)
                    break
                except ValueError as error:
                    raise PortError(f"{self.name} is no URL that pyserial can open: {error}") from None
                except (serial.SerialException, OSError) as error:
                    if give_up.wait(0.25):
                        raise PortError(f"{self.name} cannot be opened: {error} (waited {timeout_s:g} s)") from None
        finally:
            timer.cancel()
        self._dtr = self._rts = True  # What pyserial asserts when it opens a port.

    def close(self) -> None:
        """See `Link.close`."""
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def read(self) -> bytes:
        """See `Link.read`."""
        port = self.port
        try:
            while True:
                interrupted = self._interrupted.is_set()
                data: bytes = port.read(1)
                if data:
                    return data + port.read(port.in_waiting)  # type: ignore[attr-defined]
                if interrupted:
                    break
        except (serial.SerialException, OSError) as error:
            raise PortError(f"{self.name} went away ({error})") from None
        self._interrupted.clear()
        return b""

    def receive(self, timeout_s: float) -> bytes:
        """See `Link.receive`."""
        port = self.port
        try:
            if not port.in_waiting:  # type: ignore[attr-defined]
                port.timeout = max(0.0, timeout_s)
                first: bytes = port.read(1)
                port.timeout = WAKE_S
            else:
                first = b""
            return first + port.read(port.in_waiting)  # type: ignore[attr-defined]
        except (serial.SerialException, OSError) as error:
            raise PortError(f"{self.name} went away ({error})") from None

    def descriptor(self) -> int | None:
        """See `Link.descriptor`."""
        return None

    def interrupt(self) -> None:
        """See `Link.interrupt`."""
        self._interrupted.set()

    def write(self, data: bytes) -> None:
        """See `Link.write`."""
        try:
            self.port.write(data)
        except (serial.SerialException, OSError) as error:
            raise PortError(f"{self.name} cannot be written to: {error}") from None

    def set_lines(self, *, dtr: bool, rts: bool) -> None:
        """See `Link.set_lines`; DTR goes first, and only changes are sent: each costs a round trip."""
        try:
            if dtr != self._dtr:
                self.port.dtr = self._dtr = dtr
            if rts != self._rts:
                self.port.rts = self._rts = rts
        except (serial.SerialException, OSError) as error:
            raise PortError(f"{self.name} went away while its lines were set ({error})") from None
