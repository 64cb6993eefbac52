"""When a slot is not to be trusted any more: so many failures of the bench in a row."""

from __future__ import annotations

DEFAULT_LIMIT = 3


class SlotHealth:
    """Counts infrastructure failures in a row on one slot.

    The worker and the controller each keep one and count the same reports, so both know at once.
    """

    def __init__(self, limit: int, failures: int = 0) -> None:
        """`limit` 0 trusts the slot for ever; `failures` is what an earlier worker of the slot left behind."""
        self.limit = limit
        self.failures = failures

    @property
    def quarantined(self) -> bool:
        """Whether the slot has failed too often."""
        return 0 < self.limit <= self.failures

    def note(self, infrastructure_failed: bool) -> bool:
        """Note how a test on the slot went; return whether that brought the slot into quarantine."""
        before = self.quarantined
        if not before:
            self.failures = self.failures + 1 if infrastructure_failed else 0
        return self.quarantined and not before
