"""Reset sequences through DTR and RTS, for the two ways these reach an ESP32-family chip.

Sources: the auto-reset circuit in Espressif's devkit schematics (EN is low while RTS and not DTR, IO0 is low while DTR
and not RTS), and the USB Serial/JTAG controller chapter of the technical reference manuals.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_hut.link.base import Link

HOLD_S = 0.1
"""How long EN stays low; the RC on EN of common boards needs a few milliseconds."""

STRAP_S = 0.05
"""How long IO0 stays low after EN was released: longer than EN takes to rise, so that the strap is sampled low."""

USB_HOLD_S = 0.2
"""The internal USB controller needs longer, since the device drops off the bus."""


def reset_to_app(link: Link, wiring: str, while_held: Callable[[], object]) -> None:
    """Restart the chip into its flash content. `wiring` is a slot's `reset`: classic or usb-jtag.

    `while_held` is called at the end of the time in reset, when all that was printed before has arrived.
    """
    link.set_lines(dtr=False, rts=True)
    time.sleep(USB_HOLD_S if wiring == "usb-jtag" else HOLD_S)
    while_held()
    link.set_lines(dtr=False, rts=False)


def reset_to_loader(link: Link, wiring: str) -> None:
    """Restart the chip into the ROM's serial loader."""
    if wiring == "usb-jtag":
        for dtr, rts in ((False, False), (True, False), (True, True), (False, True)):
            link.set_lines(dtr=dtr, rts=rts)
            time.sleep(HOLD_S)
        link.set_lines(dtr=False, rts=False)
        return
    link.set_lines(dtr=False, rts=True)
    time.sleep(HOLD_S)
    link.set_lines(dtr=True, rts=False)
    time.sleep(STRAP_S)
    link.set_lines(dtr=False, rts=False)
