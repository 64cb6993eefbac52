"""What links on a port of pyserial have in common: the port while it is open, and its rate, which outlives it."""

from __future__ import annotations

from typing import Generic, TypeVar

import serial

from pytest_hut.errors import PortError

Port = TypeVar("Port", bound=serial.SerialBase)


class PyserialPort(Generic[Port]):
    """A port by name, which may be open or not; the rate it gets when it is opened anew is that of before."""

    def __init__(self, name: str, baudrate: int) -> None:
        self.name = name
        self._baudrate = baudrate
        self._port: Port | None = None

    @property
    def port(self) -> Port:
        """The open pyserial port. Raises PortError when it is closed."""
        if self._port is None:
            raise PortError(f"{self.name} is not open")
        return self._port

    @property
    def baudrate(self) -> int:
        """Bits per second."""
        return self._baudrate

    @baudrate.setter
    def baudrate(self, value: int) -> None:
        self._baudrate = value
        if self._port is not None and self._port.baudrate != value:
            self._port.baudrate = value
