"""What Home Assistant's REST API says about a bench's relays: entities, their states and services, without HTTP.

Wording and shapes follow https://developers.home-assistant.io/docs/api/rest/ and the answers of a real server.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

_ULID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LENGTH = 26
_DOMAINS = ("switch", "homeassistant")
_SERVICES: Mapping[str, bool | None] = {"turn_on": True, "turn_off": False, "toggle": None}
"""The state a service asks for; None is the other one."""


class Relay(Protocol):
    """Something that can be switched: a virtual board's supply."""

    @property
    def powered(self) -> bool:
        """Whether it is on now."""

    def power(self, on: bool) -> bool:
        """Switch; return whether that changed anything."""


def entity_id(slot_id: str) -> str:
    """Return the relay entity of a slot: `switch.hut_01_power` for `hut-01`."""
    return f"switch.{slot_id.lower().replace('-', '_')}_power"


@dataclass
class _Entity:
    relay: Relay
    friendly_name: str
    shown: bool
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))
    context: str = field(default_factory=lambda: _ulid())


class BadService(Exception):
    """No such service, or its data is not what it takes: the real server answers 400."""


class RelayStates:
    """The entities of all relays; usable from any thread."""

    def __init__(self, relays: Mapping[str, Relay]) -> None:
        """`relays` by slot id."""
        self._lock = threading.Lock()
        self._entities = {
            entity_id(slot_id): _Entity(relay, f"{slot_id} power", relay.powered) for slot_id, relay in relays.items()
        }

    def all(self) -> list[dict[str, Any]]:
        """Return every entity's state object."""
        with self._lock:
            return [self._state(name) for name in self._entities]

    def get(self, name: str) -> dict[str, Any] | None:
        """Return one entity's state object, None if there is none."""
        with self._lock:
            return self._state(name) if name in self._entities else None

    def call(self, domain: str, service: str, data: Any) -> list[dict[str, Any]]:
        """Call a service; return the states that it changed. Raises BadService."""
        if domain not in _DOMAINS or service not in _SERVICES:
            raise BadService
        wanted = _SERVICES[service]
        with self._lock:
            changed = []
            for name in _targets(data, self._entities):
                entity = self._entities.get(name)
                if entity is None:
                    continue
                if entity.relay.power(not entity.relay.powered if wanted is None else wanted):
                    changed.append(self._state(name))
            return changed

    def _state(self, name: str) -> dict[str, Any]:
        entity = self._entities[name]
        on = entity.relay.powered
        if on is not entity.shown:
            entity.shown = on
            entity.changed = datetime.now(UTC)
            entity.context = _ulid()
        since = entity.changed.isoformat()
        return {
            "entity_id": name,
            "state": "on" if on else "off",
            "attributes": {"friendly_name": entity.friendly_name},
            "last_changed": since,
            "last_reported": since,
            "last_updated": since,
            "context": {"id": entity.context, "parent_id": None, "user_id": None},
        }


def _targets(data: Any, known: Iterable[str]) -> list[str]:
    """Return the entity ids a service call names: a string, comma separated, `all`, or a list."""
    named = data.get("entity_id") if isinstance(data, dict) else None
    if named == "all":
        return list(known)
    if isinstance(named, str):
        named = named.split(",")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise BadService
    return [name.strip().lower() for name in named]


def _ulid() -> str:
    return "01" + "".join(secrets.choice(_ULID_ALPHABET) for _ in range(_ULID_LENGTH - 2))
