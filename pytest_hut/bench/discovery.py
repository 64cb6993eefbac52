"""What the host shows below /dev/serial/by-id, with what the kernel knows about each USB device behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BY_ID = Path("/dev/serial/by-id")
SYS_TTY = Path("/sys/class/tty")

MAX_TEXT = 200
"""Characters of a USB string; the descriptor itself cannot be longer than 126."""


@dataclass(frozen=True)
class SerialDevice:
    """One name below /dev/serial/by-id."""

    by_id: str
    """The whole path, as slots.toml has it."""
    device: str | None
    """The device node it leads to now, such as /dev/ttyUSB0; None if it leads nowhere."""
    vendor_id: str | None = None
    """Four hex digits."""
    product_id: str | None = None
    """Four hex digits."""
    manufacturer: str | None = None
    product: str | None = None
    serial: str | None = None
    interface: int | None = None
    """Number of the USB interface."""
    driver: str | None = None
    """The kernel's driver, such as cp210x."""


def discover(by_id: Path = BY_ID, sys_tty: Path = SYS_TTY) -> list[SerialDevice]:
    """Return what is plugged in, by name; empty where there is nothing, or no such folder."""
    try:
        names = sorted(by_id.iterdir())
    except OSError:
        return []
    return [_look_at(name, sys_tty) for name in names]


def _look_at(name: Path, sys_tty: Path) -> SerialDevice:
    if not name.exists():
        return SerialDevice(by_id=str(name), device=None)
    device = name.resolve()
    node = (sys_tty / device.name / "device").resolve()
    folders = [node, *node.parents]
    usb = next((folder for folder in folders if (folder / "idVendor").is_file()), None)
    interface = next((folder for folder in folders if (folder / "bInterfaceNumber").is_file()), None)
    number = _text(interface, "bInterfaceNumber")
    return SerialDevice(
        by_id=str(name),
        device=str(device),
        vendor_id=_text(usb, "idVendor"),
        product_id=_text(usb, "idProduct"),
        manufacturer=_text(usb, "manufacturer"),
        product=_text(usb, "product"),
        serial=_text(usb, "serial"),
        interface=int(number, 16) if number else None,
        driver=(interface / "driver").resolve().name if interface and (interface / "driver").exists() else None,
    )


def _text(folder: Path | None, name: str) -> str | None:
    """Return what a file of sysfs says, in one line of printable characters: a device can say anything."""
    if folder is None:
        return None
    try:
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:MAX_TEXT] or None
