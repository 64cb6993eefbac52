"""The port as esptool gets it: lent for a while, with a deadline, and never closed behind the owner's back."""

from __future__ import annotations

import time
from typing import Any

import serial

from pytest_hut.errors import FlashError


class LentPort:
    """Passes everything on to the real port, except that closing it does nothing and no read outlives the deadline.

    esptool may wait for a silent chip without limit after it started its stub, and closes the port on some errors;
    the owner of the port can have neither.
    """

    def __init__(self, port: serial.SerialBase, deadline: float) -> None:
        object.__setattr__(self, "_port", port)
        object.__setattr__(self, "step", "connecting")
        object.__setattr__(self, "deadline", deadline)

    def set_step(self, step: str, seconds: float) -> None:
        """Name what happens next, for messages, and how long it may take."""
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "deadline", time.monotonic() + seconds)

    def read(self, size: int = 1) -> bytes:
        """Read as pyserial does. Raises FlashError once the deadline has passed."""
        self._check()
        data: bytes = self._port.read(size)
        return data

    def write(self, data: bytes) -> int | None:
        """Write as pyserial does. Raises FlashError once the deadline has passed."""
        self._check()
        written: int | None = self._port.write(data)
        return written

    def close(self) -> None:
        """Do nothing: the port is only lent."""

    def _check(self) -> None:
        if time.monotonic() > self.deadline:
            raise FlashError(f"{self.step} took too long; the board stopped answering")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._port, name, value)
