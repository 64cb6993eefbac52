"""How a flash may go about it. By itself, because options name these before anything that flashes is loaded."""

from __future__ import annotations

FLASH_MODES = ("auto", "verify", "always", "never")
"""See `slot.HutSlot.flash_mode`."""
