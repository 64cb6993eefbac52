"""The relay state machine: check, command, read back until it holds; and the way back on from anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_hut.bench.models import PowerTimes
from pytest_hut.errors import RelayError
from pytest_hut.events.types import Event, PowerCycled, PowerOffIntended, PowerSwitched, Recovered
from pytest_hut.power.driver import RelayDriver, RelayRefused, RelayTimeout
from pytest_hut.power.intent import PowerFile, PowerRecord

Status = Literal["ok", "timeout", "ha_error"]

READ_BACK_EVERY_S = 0.1
"""A relay tells nobody when it has switched; it has to be asked."""


@dataclass(frozen=True)
class PowerResult:
    """What became of a power command: always one of `ok`, `timeout`, `ha_error`, with the reason in words."""

    status: Status
    action: str
    entity: str
    seconds: float
    attempts: int
    states: tuple[str, ...] = ()
    """The states read back, in order, without repetitions."""
    reason: str = ""
    off_s: float = 0.0
    on_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the relay is proved to have done what was asked."""
        return self.status == "ok"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)


@dataclass
class _Attempt:
    """What one command went through."""

    states: list[str] = field(default_factory=list)
    count: int = 0
    status: Status = "ha_error"
    reason: str = ""


class Relay:
    """The relay of one slot whose lock is held. All methods may be called from one thread only."""

    def __init__(
        self, slot_id: str, driver: RelayDriver, times: PowerTimes, record: PowerFile, emit: Callable[[Event], None]
    ) -> None:
        self._slot_id = slot_id
        self._driver = driver
        self._times = times
        self._record = record
        self._emit = emit
        self._pause = threading.Event()

    def state(self) -> str:
        """Return what the relay says it is (`on`, `off`, ...). Raises RelayError."""
        self._driver.check()
        return self._driver.state()

    def on(self) -> PowerResult:
        """Switch on and prove it."""
        result = self._switch("on")
        if result.ok:
            self._mark(off_intended=False)
        return result

    def off(self) -> PowerResult:
        """Switch off and prove it. From here until `on` the slot owes its board power.

        Raises:
            InfrastructureError: the intent could not be written down, so nothing was switched.
        """
        self._mark(off_intended=True)
        self._emit(PowerOffIntended(slot=self._slot_id, entity=self._driver.name))
        return self._switch("off")

    def cycle(
        self,
        off_s: float | None = None,
        on_s: float | None = None,
        while_off: Callable[[], object] | None = None,
    ) -> PowerResult:
        """Off, wait `off_s`, on, wait `on_s` (both in seconds; None is the slot's default). Ends on, or tells that not.

        The slot's cooldown is waited for first. `while_off` is called at the end of the off time.
        """
        off_s = self._times.off_s if off_s is None else off_s
        on_s = self._times.on_s if on_s is None else on_s
        start = time.monotonic()
        self._pause.wait(self._record.read().cooldown_left_s(self._times.cooldown_s))
        off = self.off()
        try:
            if off.ok:
                self._pause.wait(off_s)
                if while_off is not None:
                    while_off()
        finally:
            # Also after a failed off (it may still happen late) and when this wait was interrupted.
            on = self.on()
            self._mark(off_intended=not on.ok, cycle_ended=True)
        if on.ok:
            self._pause.wait(on_s)
        worst = on if not on.ok else off
        reason = worst.reason
        if not on.ok:
            reason = f"THE BOARD MAY BE OFF: switch {self._driver.name} on by hand ({reason})"
        result = PowerResult(
            status=worst.status,
            action="cycle",
            entity=self._driver.name,
            seconds=time.monotonic() - start,
            attempts=off.attempts + on.attempts,
            states=off.states + on.states,
            reason=reason,
            off_s=off_s,
            on_s=on_s,
        )
        self._emit(
            PowerCycled(
                slot=self._slot_id,
                status=result.status,
                entity=result.entity,
                off_s=off_s,
                on_s=on_s,
                attempts=result.attempts,
                seconds=result.seconds,
                reason=result.reason,
            )
        )
        return result

    def restore(self, why: str) -> PowerResult | None:
        """If somebody meant to switch this board off and never proved it on again, switch it on.

        Returns:
            None if there was nothing to restore.
        """
        if not self._record.read().off_intended:
            return None
        result = self.on()
        if result.ok:
            self._emit(Recovered(slot=self._slot_id, what="power restored", reason=why))
        return result

    def close(self) -> None:
        """Let go of the driver."""
        self._driver.close()

    def _mark(self, *, off_intended: bool, cycle_ended: bool = False) -> None:
        old = self._record.read()
        new = PowerRecord(off_intended, time.time() if cycle_ended else old.last_cycle_end)
        if new != old:
            self._record.write(new)

    def _switch(self, target: Literal["on", "off"]) -> PowerResult:
        start = time.monotonic()
        attempt = _Attempt()
        while attempt.count < self._times.max_tries and attempt.status != "ok":
            attempt.count += 1
            try:
                self._command_and_read_back(target, attempt)
            except RelayRefused as error:
                attempt.status, attempt.reason = "ha_error", str(error)
                break
            except RelayTimeout as error:
                attempt.status, attempt.reason = "timeout", str(error)
            except RelayError as error:
                attempt.status, attempt.reason = "ha_error", str(error)
                if attempt.count < self._times.max_tries:
                    self._pause.wait(min(1.0, self._times.settle_timeout_s / 4))
        result = PowerResult(
            status=attempt.status,
            action=target,
            entity=self._driver.name,
            seconds=time.monotonic() - start,
            attempts=attempt.count,
            states=tuple(attempt.states),
            reason=attempt.reason,
        )
        self._emit(
            PowerSwitched(
                slot=self._slot_id,
                target=target,
                status=result.status,
                seconds=result.seconds,
                reason=result.reason,
            )
        )
        return result

    def _command_and_read_back(self, target: str, attempt: _Attempt) -> None:
        self._driver.check()
        self._driver.command(target == "on")
        deadline = time.monotonic() + self._times.settle_timeout_s
        while True:
            state = self._driver.state()
            if not attempt.states or attempt.states[-1] != state:
                attempt.states.append(state)
            if state == target:
                attempt.status, attempt.reason = "ok", ""
                return
            if time.monotonic() >= deadline:
                raise RelayTimeout(
                    f"{self._driver.name} still says {state!r} {self._times.settle_timeout_s:g} s after it was told "
                    f"to switch {target}"
                )
            self._pause.wait(READ_BACK_EVERY_S)


class NoRelayDriver:
    """A slot without a relay: its power cannot be switched from here."""

    name = "none"

    def check(self) -> None:
        """Always raises."""
        raise RelayRefused("the slot has no relay; give it one in slots.toml, or switch its power by hand")

    def command(self, on: bool) -> None:
        """Always raises."""
        del on
        self.check()

    def state(self) -> str:
        """Always raises."""
        self.check()
        return "unknown"

    def close(self) -> None:
        """Nothing is open."""
