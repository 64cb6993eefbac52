"""The hand-over line: what one role tells the next, in one line that people and programs read.

Each item is `key=value`, in the order of `Handoff`, with one space between. A value that is empty, or has anything but
printable ASCII without spaces, `"`, `=` and `\\`, is a JSON string. `evidence` stands once for every path.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields

CHOICES: dict[str, tuple[str, ...]] = {
    "role": ("arch", "infra", "runner"),
    "context": ("arch-local", "infra-live", "runner-live"),
    "action_type": ("scaffold", "delegate", "execute", "replan"),
    "operator_required": ("yes", "no"),
    "executor": ("remote_codex", "ssh_direct"),
}
"""What the keys may be that have only a few values."""

CONTEXT_OF_ROLE: dict[str, str] = {"arch": "arch-local", "infra": "infra-live", "runner": "runner-live"}

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
_ITEM = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[!#-<>-\[\]-~]+)(?: |\Z)')


@dataclass(frozen=True)
class Handoff:
    """One hand-over."""

    utc: str
    role: str
    thread_ref: str
    context: str
    action_type: str
    operator_required: str
    executor: str
    branch: str
    head: str
    """The full SHA."""
    evidence: tuple[str, ...]
    """Paths."""
    next_action: str


def handoff_line(handoff: Handoff) -> str:
    """Return the line, without a line end."""
    items = []
    for field in fields(Handoff):
        value = getattr(handoff, field.name)
        items += [(field.name, text) for text in (value if isinstance(value, tuple) else (value,))]
    return " ".join(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}" for key, text in items)


def parse_handoff(line: str) -> Handoff:
    """Return what `handoff_line` was given.

    Raises:
        ValueError: the line is none of these: it says where.
    """
    values: dict[str, list[str]] = {field.name: [] for field in fields(Handoff)}
    at = 0
    while at < len(line):
        item = _ITEM.match(line, at)
        if item is None:
            raise ValueError(f"at character {at}: key=value is expected there")
        key, text = item.groups()
        if key not in values:
            raise ValueError(f"at character {at}: there is no key {key!r} in a hand-over line")
        values[key].append(str(json.loads(text)) if text.startswith('"') else text)
        at = item.end()
    evidence = tuple(values.pop("evidence"))
    for key, found in values.items():
        if len(found) != 1:
            raise ValueError(f"{key} is given {len(found)} times, and has to be given once")
        if key in CHOICES and found[0] not in CHOICES[key]:
            raise ValueError(f"{key}={found[0]}: it has to be one of {', '.join(CHOICES[key])}")
    return Handoff(evidence=evidence, **{key: found[0] for key, found in values.items()})
