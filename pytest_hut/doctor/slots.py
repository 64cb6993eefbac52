"""The slots of the bench: ports, permissions, locks, credentials, relays."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_hut.bench.discovery import BY_ID, discover
from pytest_hut.bench.models import Bench, Slot
from pytest_hut.doctor.finding import Finding
from pytest_hut.errors import ConfigError, InfrastructureError, SlotBusy
from pytest_hut.host import user_name
from pytest_hut.lease.lockfile import LockFile


def devices(bench: Bench | None, by_id: Path = BY_ID) -> Finding:
    """What is plugged in, and what of it no slot has."""
    found = discover(by_id)
    used = {str(Path(slot.port).resolve()) for slot in _real_slots(bench) if slot.port and "://" not in slot.port}
    unused = [Path(device.by_id).name for device in found if device.device not in used]
    text = f"{len(found)} in {by_id}" if by_id.is_dir() else f"there is no {by_id}: no USB serial device is plugged in"
    return Finding("devices", True, f"{text}; no slot has {', '.join(unused)}" if unused else text)


def port(slot: Slot) -> Finding:
    """Whether the slot's port is there and may be opened by this user."""
    topic = f"port {slot.id}"
    if slot.virtual or slot.port is None:
        return Finding(topic, True, "virtual, served when it is used")
    if "://" in slot.port:
        return Finding(topic, True, f"{slot.port.partition('://')[0]} address, reached when it is used")
    path = Path(slot.port)
    try:
        group_id = path.stat().st_gid
    except FileNotFoundError:
        return Finding(
            topic, False, f"{path} is not there; plug the board in, or correct slots.toml (see: hut inventory)"
        )
    except OSError as error:
        return Finding(topic, False, f"{path} cannot be looked at ({error.strerror}); give this user access")
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(topic, True, f"{path} -> {path.resolve()}")
    return Finding(topic, False, f"{path} may not be opened by this user; {_how_to_join(group_id)}")


def lock(slot: Slot) -> Finding:
    """Whether the slot's lock can be taken; that somebody holds it is well."""
    topic = f"lock {slot.id}"
    try:
        LockFile(slot.lock, "hut doctor").acquire(0.0).release()
    except SlotBusy:
        return Finding(topic, True, f"{slot.lock}, held by {LockFile(slot.lock).holder() or 'somebody until just now'}")
    except InfrastructureError as error:
        return Finding(topic, False, str(error))
    return Finding(topic, True, f"{slot.lock}, free")


def credentials(bench: Bench) -> Iterator[Finding]:
    """Whether each file with a token is there, closed to others, and has the token's line. The token is not shown."""
    from pytest_hut.power.credentials import default_credentials_file, read_secret

    wanted: dict[tuple[Path, str], None] = {}
    for slot in _real_slots(bench):
        server = getattr(slot.relay, "server", None) or bench.home_assistant
        if slot.relay.driver == "home-assistant" and server is not None:
            wanted[server.credentials or default_credentials_file(), server.token_name] = None
    github = bench.firmware.github
    if github is not None and (github.credentials or default_credentials_file().exists()):
        wanted[github.credentials or default_credentials_file(), github.token_name] = None
    for path, name in wanted:
        try:
            read_secret(path, name)
        except (ConfigError, OSError) as error:
            yield Finding("credentials", False, str(error))
        else:
            yield Finding("credentials", True, f"{path} has {name}, and is closed to others")


def relay(slot: Slot, bench: Bench) -> Finding:
    """Whether the slot's relay can be asked, and says something that can be; it is not switched."""
    topic = f"relay {slot.id}"
    if slot.virtual:
        return Finding(topic, True, "virtual, served when it is used")
    if slot.relay.driver == "none":
        return Finding(topic, True, "none: its power is switched by hand")
    from pytest_hut.power.open import relay_for

    try:
        opened = relay_for(slot, bench, lambda _event: None)
    except ConfigError as error:
        return Finding(topic, False, str(error))
    try:
        seen = opened.look()
    finally:
        opened.close()
    if not seen.ok:
        return Finding(topic, False, seen.reason)
    if seen.last_state == "off" and LockFile(slot.lock).holder() is None:
        return Finding(topic, False, f"{seen.entity} is off, and nobody holds the slot; switch it on")
    return Finding(topic, True, f"{seen.entity} is {seen.last_state}, read in {seen.seconds:.2f} s")


def _real_slots(bench: Bench | None) -> list[Slot]:
    return [slot for slot in bench.slots.values() if not slot.virtual] if bench else []


def _how_to_join(group_id: int) -> str:
    try:
        group = grp.getgrgid(group_id)
    except KeyError:
        return f"it belongs to group {group_id}, which has no name here; set its group with a udev rule"
    if user_name() in group.gr_mem:
        return f"this login is older than the user's membership in {group.gr_name}: log in again"
    return f"run: sudo usermod -aG {group.gr_name} {user_name()}, and log in again"
