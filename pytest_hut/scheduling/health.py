"""When a slot is not to be trusted any more: so many failures of the bench in a row."""

from __future__ import annotations

DEFAULT_LIMIT = 3


class SlotHealth:
    """Counts infrastructure failures in a row on one slot.

    The worker and the controller each keep one and count the same reports, so both know at once. Only a board that
    another slot's test could not have is counted by the controller alone, which then knows earlier.
    """

    def __init__(self, limit: int, failures: int = 0) -> None:
        """`limit` 0 trusts the slot for ever; `failures` is what an earlier worker of the slot left behind."""
        self.limit = limit
        self.failures = failures
        self._last_failed = ""

    @property
    def quarantined(self) -> bool:
        """Whether the slot has failed too often."""
        return 0 < self.limit <= self.failures

    def note(self, test: str, infrastructure_failed: bool) -> bool:
        """Note how a phase of a test on the slot went; return whether that brought the slot into quarantine.

        What fails in a test and again in its teardown counts once.
        """
        before = self.quarantined
        if not before and not infrastructure_failed:
            self.failures, self._last_failed = 0, ""
        elif not before and test != self._last_failed:
            self.failures, self._last_failed = self.failures + 1, test
        return self.quarantined and not before
