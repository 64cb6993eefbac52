"""The errors of the suite, in two trees that are never mixed up.

`InfrastructureError` is trouble of the bench (port, relay, lock, flash link, no firmware to flash);
`ProductError` is trouble of the firmware under test (it panicked, did not boot, printed the wrong thing).
`ConfigError` is neither: somebody typed something that cannot work, and the message says what to change.
Every message is one or two sentences for a person, without secrets.
"""

from __future__ import annotations


class HutError(Exception):
    """Root of all errors raised on purpose by this package."""


class ConfigError(HutError):
    """Bad input from a person: a configuration file, an option, an argument."""


class InfrastructureError(HutError):
    """The bench failed, so nothing was learned about the firmware."""


class SlotBusy(InfrastructureError):
    """Somebody else holds the slot's lock and the time to wait for it is over."""


class PortError(InfrastructureError):
    """The serial port is missing, held by another process, or went away."""


class NoSignOfLife(InfrastructureError):
    """Not one byte came after a reset: not even the ROM spoke, so power, cable or port are suspect."""


class RelayError(InfrastructureError):
    """The relay could not be brought to, or proved in, the state asked for."""


class FlashError(InfrastructureError):
    """The firmware could not be put on the board."""


class FirmwareError(InfrastructureError):
    """There is no usable firmware to flash: missing, damaged, or for another chip."""


class FirmwareMissing(FirmwareError):
    """The place that was looked at has no firmware of that commit for that chip."""


class ProductError(HutError):
    """The firmware under test misbehaved."""


class BootFailure(ProductError):
    """The firmware did not reach its application."""


class BootLoop(BootFailure):
    """The board resets again and again without staying up."""


class FirmwareCrash(ProductError):
    """The firmware panicked, aborted, or was reset by a watchdog or a brown-out."""


class ExpectTimeout(ProductError):
    """The firmware did not print what was expected in time."""
