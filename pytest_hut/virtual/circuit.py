"""The two transistors and one capacitor between a USB adapter's modem lines and the chip: pure logic, explicit time.

The circuit is the auto-reset circuit of Espressif's devkit schematics: RTS asserted with DTR released pulls EN low,
DTR asserted with RTS released pulls IO0 low, both asserted or both released pull nothing. EN has a capacitor, so it
falls at once and rises late; that delay is what lets tools set the two lines one after the other and still enter
download mode. All times are seconds of one monotonic clock, and must not go backwards.
"""

from __future__ import annotations

from typing import NamedTuple

EN_RISE_S = 0.005
"""EN's rise time: 10 kOhm into about 0.5 uF. Long enough for two separate line changes, short against the 50 ms that
esptool keeps IO0 low."""

HOLD_BACK_S = 0.25
"""How long `SequentialLines` waits for the second half of a line change that a network protocol cut in two."""


class ModemLines(NamedTuple):
    """The host's two output lines; True is asserted."""

    dtr: bool
    rts: bool


RELEASED = ModemLines(dtr=False, rts=False)
_IN_RESET = ModemLines(dtr=False, rts=True)
_BOTH = ModemLines(dtr=True, rts=True)


class ResetCircuit:
    """EN and IO0 as functions of the modem lines, the supply and time. Starts without power."""

    def __init__(self, rise_s: float = EN_RISE_S) -> None:
        self._rise_s = rise_s
        self._lines = RELEASED
        self._powered = False
        self.enabled = False
        """EN is high: the chip runs."""
        self.rises_at: float | None = None
        """When EN will be high if nothing changes; None while it is high or held low."""
        self.download = False
        """IO0 was low when EN last rose."""

    def set_lines(self, lines: ModemLines, now: float) -> None:
        """Apply both lines at once."""
        self.advance(now)
        self._lines = lines
        self._settle(now)

    def set_power(self, on: bool, now: float) -> None:
        """Switch the chip's supply; EN follows it like any other release from reset."""
        self.advance(now)
        self._powered = on
        self._settle(now)

    def advance(self, now: float) -> None:
        """Let time pass up to `now`; IO0 is sampled as it was when EN rose, however late this is called."""
        if self.rises_at is not None and now >= self.rises_at:
            self.rises_at = None
            self.enabled = True
            self.download = self._lines.dtr and not self._lines.rts

    def _settle(self, now: float) -> None:
        if not self._powered or self._lines == _IN_RESET:
            self.enabled = False
            self.rises_at = None
        elif not self.enabled and self.rises_at is None:
            self.rises_at = now + self._rise_s


class SequentialLines:
    """Joins line changes that arrive one at a time and late, as over RFC 2217, into what the sender meant.

    A tool enters download mode by going from reset (DTR off, RTS on) to boot (DTR on, RTS off). Where the two
    changes are tens of milliseconds apart, the both-asserted state between them would end the reset with IO0 high.
    So that state is held back when it follows reset, until the next change or for `HOLD_BACK_S`.
    """

    def __init__(self) -> None:
        self._asked = RELEASED
        self._applied = RELEASED
        self.due: float | None = None
        """When a held-back change is to be applied after all; None when nothing is held back."""

    @property
    def asked(self) -> ModemLines:
        """The lines as the sender last set them."""
        return self._asked

    def change(self, lines: ModemLines, now: float) -> ModemLines | None:
        """Take the sender's new state; return what to apply now, None for nothing."""
        if lines == self._asked:
            return None
        self._asked = lines
        if lines == _BOTH and self._applied == _IN_RESET:
            self.due = now + HOLD_BACK_S
            return None
        self.due = None
        if lines == self._applied:
            return None
        self._applied = lines
        return lines

    def expire(self, now: float) -> ModemLines | None:
        """Return the held-back state once it is due, None otherwise."""
        if self.due is None or now < self.due:
            return None
        self.due = None
        self._applied = self._asked
        return self._applied
