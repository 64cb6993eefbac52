"""What a test needs of a slot, and whether a slot has it. Plain data, so that it can cross a process boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_MISFITS = 3
"""So many slots are named when none fits; a bench of twenty would fill the screen."""


@dataclass(frozen=True)
class Needs:
    """What one test needs."""

    node_id: str
    uses_slot: bool = False
    """Whether it touches a board at all; one that does not runs in any worker."""
    chips: tuple[str, ...] | None = None
    """Any of these; None: any chip."""
    features: tuple[str, ...] = ()
    firmware: str | None = None
    """Tests with equal keys flash the same firmware; None: the test flashes nothing."""
    count: int = 1
    """How many boards it needs at once."""
    bound_to: str | None = None
    """The one slot it is about; where it needs several boards, that of the first."""


@dataclass(frozen=True)
class SlotFacts:
    """What a slot has."""

    id: str
    chip: str
    features: frozenset[str] = frozenset()


def misfit(needs: Needs, slot: SlotFacts) -> str | None:
    """Return in one phrase what `slot` lacks for a test, or None where it fits."""
    if not needs.uses_slot:
        return None
    if needs.bound_to not in (None, slot.id) and needs.count == 1:
        return f"is about {needs.bound_to}"
    if needs.chips is not None and slot.chip not in needs.chips:
        return f"needs chip {' or '.join(needs.chips) or '(none at all)'}, but {slot.id} has {slot.chip}"
    missing = set(needs.features) - slot.features
    if missing:
        return f"needs {', '.join(sorted(missing))}, which {slot.id} does not have"
    return None


def no_slot_reason(needs: Needs, slots: Sequence[SlotFacts]) -> str | None:
    """Return in one phrase why no slot (or too few) of `slots` fits a test, or None where it can run."""
    if not needs.uses_slot:
        return None
    reasons = [misfit(needs, slot) for slot in slots]
    fitting = reasons.count(None)
    first = needs.bound_to is None or any(slot.id == needs.bound_to for slot in slots)
    if fitting >= needs.count and first:
        return None
    told = [reason for reason in reasons if reason is not None and not reason.startswith("is about")]
    some = "; ".join(told[:SHOWN_MISFITS]) + ("; ..." if len(told) > SHOWN_MISFITS else "")
    if needs.count > 1 and first:
        return f"no slot for it: needs {needs.count} boards, {fitting} fit" + (f": {some}" if some else "")
    return f"no slot for it: {some or f'{needs.bound_to} is not in this session'}"
