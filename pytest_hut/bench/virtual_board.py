"""What a virtual board is: plain data, so that it can cross a process boundary as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Faults:
    """Things that go wrong on purpose. The defaults are a healthy board.

    Probabilities are per byte, in each direction; times are seconds. `seed` makes a run repeatable.
    """

    lose_byte: float = 0.0
    flip_bit: float = 0.0
    silent: bool = False
    """The chip gives no sign of life: nothing is printed, nothing answered."""
    brownout_after_s: float | None = None
    """Seconds after every application start at which the supply sags and the brown-out detector resets the chip."""
    vanish_after_s: float | None = None
    """Seconds after the first byte the board sends following a reset at which the port disappears, once."""
    vanish_for_s: float = 1.0
    md5_wrong_once: bool = False
    """The next flash MD5 the loader computes is wrong; later ones are right."""
    seed: int = 0


@dataclass(frozen=True)
class VirtualBoardSpec:
    """One virtual board and the adapter and relay it hangs on."""

    slot_id: str
    chip: str = "esp32"
    """esptool's name of the chip: esp32, esp32s3, esp32c3, esp32c6."""
    features: tuple[str, ...] = ("psram",)
    console_baud: int = 115200
    flash_size: int = 4 * 1024 * 1024
    """Bytes, a power of two."""
    flash_quad: bool = True
    """Whether the flash chip can be switched to quad I/O, as most can."""
    mac: str | None = None
    """`aa:bb:cc:dd:ee:ff`; None derives a stable, locally administered one from the slot id."""
    chip_revision: tuple[int, int] | None = None
    """(major, minor); None is a common revision of that chip."""
    flash_encryption: bool = False
    """The eFuses say that flash encryption is on. That is all: what is in the flash is read and run as it is."""
    secure_download: bool = False
    """The ROM's loader is in secure download mode; the ESP32 has none."""
    strapping: int | None = None
    """The value the ROM prints as `boot:0x..`, where it is not the chip's usual one."""
    bus_powered: bool = False
    """The USB adapter lives on the switched supply: power off takes the port away."""
    paced: bool = True
    """Bytes take their time on the wire; False makes the wire infinitely fast."""
    recorded_log: Path | None = None
    """A file that is played after the bootloader started the application, instead of the image's console script."""
    faults: Faults = field(default_factory=Faults)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping that `from_json` reads back."""
        data = asdict(self)
        data["recorded_log"] = str(self.recorded_log) if self.recorded_log else None
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VirtualBoardSpec:
        """Build a spec from what `to_json` returned; unknown keys raise TypeError."""
        values = dict(data)
        values["features"] = tuple(values.get("features", ()))
        if values.get("chip_revision") is not None:
            major, minor = values["chip_revision"]
            values["chip_revision"] = (int(major), int(minor))
        if values.get("recorded_log"):
            values["recorded_log"] = Path(values["recorded_log"])
        faults = values.get("faults") or {}
        values["faults"] = Faults(**faults)
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise TypeError(f"unknown keys of a virtual board: {', '.join(sorted(unknown))}")
        return cls(**values)
