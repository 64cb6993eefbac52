"""Hardware-in-the-loop testing of ESP32-family boards with pytest.

What a test author needs is importable from here; it is loaded when it is first touched, because this package is
imported in every pytest run of a machine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_hut.board.bootlog_model import Boot
    from pytest_hut.board.console import Console
    from pytest_hut.board.slot import Firmware, HutSlot
    from pytest_hut.errors import (
        BootFailure,
        BootLoop,
        ConfigError,
        ExpectTimeout,
        FirmwareCrash,
        FirmwareError,
        FirmwareMissing,
        FlashError,
        HutError,
        InfrastructureError,
        NoSignOfLife,
        PortError,
        ProductError,
        RelayError,
        SlotBusy,
    )
    from pytest_hut.power.relay import Relay
    from pytest_hut.power.result import PowerResult

__version__ = "0.1.0"

_HOMES = {
    "Boot": "board.bootlog_model",
    "Console": "board.console",
    "Firmware": "board.slot",
    "HutSlot": "board.slot",
    "PowerResult": "power.result",
    "Relay": "power.relay",
}

__all__ = [
    "Boot",
    "BootFailure",
    "BootLoop",
    "ConfigError",
    "Console",
    "ExpectTimeout",
    "Firmware",
    "FirmwareCrash",
    "FirmwareError",
    "FirmwareMissing",
    "FlashError",
    "HutError",
    "HutSlot",
    "InfrastructureError",
    "NoSignOfLife",
    "PortError",
    "PowerResult",
    "ProductError",
    "Relay",
    "RelayError",
    "SlotBusy",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
