"""pyserial's RFC 2217 client, made fit for flashing."""

from __future__ import annotations

from typing import Any

import serial.rfc2217


class Rfc2217Port(serial.rfc2217.Serial):
    """Negotiates with the server only when what the server knows about has changed.

    pyserial negotiates all port settings anew, about 0.2 s each time, whenever any property is assigned, and esptool
    assigns a time-out, which is no business of the server's, around every command.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._agreed: tuple[Any, ...] | None = None
        super().__init__(*args, **kwargs)

    def open(self) -> None:
        """Open the connection; nothing is agreed on a new one. Raises serial.SerialException."""
        self._agreed = None
        super().open()

    def _reconfigure_port(self) -> None:
        wanted = (self.baudrate, self.bytesize, self.parity, self.stopbits, self.rtscts, self.xonxoff)
        if wanted != self._agreed or self.write_timeout is not None:
            super()._reconfigure_port()  # type: ignore[misc]  # the stubs lack it
            self._agreed = wanted
