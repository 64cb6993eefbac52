"""What is plugged into the host, and which slot each device belongs to, as an evidence file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_hut.bench.discovery import SerialDevice
from pytest_hut.bench.models import Slot


@dataclass(frozen=True)
class ChipSeen:
    """What the loader of a slot's chip said."""

    chip: str
    revision: str
    mac: str
    flash_bytes: int

    def __str__(self) -> str:
        return f"{self.chip} revision {self.revision}, MAC {self.mac}, flash {self.flash_bytes / 2**20:g} MiB"


@dataclass
class SlotSeen:
    """One slot of slots.toml, and what was found of it."""

    slot: str
    chip: str
    port: str | None
    virtual: bool
    lock: str
    by_id: str | None = None
    """The name below /dev/serial/by-id that its port is, or leads to the same device as."""
    port_present: bool | None = None
    """None where that cannot be seen from here: a URL, or a virtual slot."""
    held_by: str | None = None
    probed: ChipSeen | None = None
    not_probed_because: str | None = None


@dataclass
class Inventory:
    """All of it."""

    utc: str
    hostname: str
    user: str
    config: str | None
    by_id_folder: str
    devices: list[SerialDevice]
    slots: list[SlotSeen] = field(default_factory=list)

    def slot_of(self, device: SerialDevice) -> str | None:
        """Return the slot whose port a device is."""
        return next((slot.slot for slot in self.slots if slot.by_id == device.by_id), None)


def slot_seen(slot: Slot, devices: list[SerialDevice], held_by: str | None) -> SlotSeen:
    """Match a slot to a device."""
    seen = SlotSeen(slot.id, slot.chip, slot.port, slot.virtual, str(slot.lock), held_by=held_by)
    if slot.virtual or slot.port is None or "://" in slot.port:
        return seen
    path = Path(slot.port)
    seen.port_present = path.exists()
    node = str(path.resolve())
    same_name = [device for device in devices if device.by_id == slot.port]
    same_node = [device for device in devices if device.device == node]
    seen.by_id = next((device.by_id for device in same_name + same_node), None)
    return seen


def inventory_text(inventory: Inventory) -> str:
    """Return the content of the evidence file."""
    lines = [
        f"inventory of {inventory.hostname}, taken {inventory.utc} by {inventory.user}",
        "role: runner",
        f"slots: {inventory.config or 'there is no slots.toml'}",
        "",
    ]
    if not inventory.devices:
        there = Path(inventory.by_id_folder).is_dir()
        lines.append(f"{inventory.by_id_folder} {'is empty' if there else 'is not there'}: no USB serial device")
    else:
        lines.append(f"{inventory.by_id_folder} shows {len(inventory.devices)}:")
    for device in inventory.devices:
        lines.append(f"  {device.by_id}")
        lines.append(f"    {_device_words(device)}")
        lines.append(f"    slot: {inventory.slot_of(device) or 'none has this port'}")
    for slot in inventory.slots:
        lines += ["", f"slot {slot.slot}: {slot.chip} ({'virtual' if slot.virtual else 'as configured'})"]
        lines.append(f"    port:  {_port_words(slot)}")
        lines.append(f"    lock:  {slot.lock}, {f'held by {slot.held_by}' if slot.held_by else 'free'}")
        lines.append(f"    board: {slot.probed or f'not asked: {slot.not_probed_because}'}")
    return "\n".join(lines) + "\n"


def _device_words(device: SerialDevice) -> str:
    if device.device is None:
        return "leads nowhere: the device is gone"
    words = [device.device]
    if device.vendor_id:
        words.append(f"USB {device.vendor_id}:{device.product_id}")
    words += [text for text in (device.manufacturer, device.product) if text]
    if device.serial:
        words.append(f"serial {device.serial}")
    if device.interface is not None:
        words.append(f"interface {device.interface}")
    if device.driver:
        words.append(f"driver {device.driver}")
    return ", ".join(words)


def _port_words(slot: SlotSeen) -> str:
    if slot.port is None:
        return "virtual"
    if slot.port_present is False:
        return f"{slot.port} (not there)"
    return f"{slot.port} (the same device as {slot.by_id})" if slot.by_id not in (None, slot.port) else slot.port
