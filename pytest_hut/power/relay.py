"""The relay of a slot: off, on, cycles, and the way back on from anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest_hut.bench.models import PowerTimes
from pytest_hut.errors import RelayError
from pytest_hut.events.types import Event, PowerCycled, PowerOffIntended, PowerSwitched, Recovered
from pytest_hut.power.deadline import Deadline
from pytest_hut.power.driver import RelayDriver, RelayTimeout
from pytest_hut.power.intent import PowerFile, PowerRecord
from pytest_hut.power.result import READ_BACK, Action, PowerResult, Status
from pytest_hut.power.switching import Switched, Switcher, Target, Trace

UNPROVED = "the command ended well, but nothing proves that the relay switched: give it a `state` command in slots.toml"

NOTHING_SENT = "nothing was switched: "


class Relay:
    """The relay of one slot whose lock is held. All methods may be called from one thread only.

    Every command ends within the slot's `budget_s`, waiting that was asked for (cooldown, off and on time) not counted;
    of a cycle's, switching off gets half at most. Commands do not raise for what relays do, they tell it in the result.
    """

    def __init__(
        self, slot_id: str, driver: RelayDriver, times: PowerTimes, record: PowerFile, emit: Callable[[Event], None]
    ) -> None:
        self._slot_id = slot_id
        self._driver = driver
        self._times = times
        self._record = record
        self._emit = emit
        self._switcher = Switcher(driver, times)
        self._pause = threading.Event()

    @property
    def name(self) -> str:
        """What people call the relay, e.g. its entity id."""
        return self._driver.name

    def state(self) -> str:
        """Return what the relay says it is: `on`, `off`, another word, or `unknown` if it never tells.

        Raises RelayError when that cannot be found out, or not be believed.
        """
        return self._driver.state(self._times.settle_timeout_s) or "unknown"

    def look(self) -> PowerResult:
        """Like `state`, as a structured result; `ok` only when it is `on` or `off`. Changes nothing."""
        trace = Trace()
        trouble: RelayError | None = None
        try:
            state = self.state()
        except RelayError as error:
            trouble = error
        else:
            trace.saw(state)
            if state not in ("on", "off"):
                trouble = RelayError(f"{self.name} is {state!r}, neither on nor off; check the relay")
        return self._result("state", trace, trouble, proved_by=() if trouble else (READ_BACK,))

    def on(self) -> PowerResult:
        """Switch on and prove it."""
        return self._on()

    def off(self) -> PowerResult:
        """Switch off and prove it. From here until `on` the slot owes its board power.

        The slot's cooldown is waited for first.

        Raises:
            InfrastructureError: the intent could not be written down, so nothing was switched.
        """
        trace = Trace()
        waited = self._cool_down()
        switched = self._switch_off(Deadline(self._times.budget_s), trace)
        return self._switched("off", trace, switched, cooldown_s=waited, switch_off_s=switched.seconds)

    def cycle(
        self,
        off_s: float | None = None,
        on_s: float | None = None,
        while_off: Callable[[], object] | None = None,
        prove: Callable[[], tuple[str, ...]] | None = None,
    ) -> PowerResult:
        """Off, wait `off_s`, on, wait `on_s`. Ends on, or tells that it does not.

        Args:
            off_s: seconds from when the relay was first read off; None is the slot's default.
            on_s: seconds after it is proved on; None is the slot's default.
            while_off: called at the end of the off time.
            prove: called when the relay is proved on; returns what the board shows of it. It must not raise.

        Raises:
            InfrastructureError: the intent could not be written down, so nothing was switched.
        """
        off_s = self._times.off_s if off_s is None else off_s
        on_s = self._times.on_s if on_s is None else on_s
        trace = Trace()
        asked: dict[str, Any] = {"off_s": off_s, "on_s": on_s, "cooldown_s": self._cool_down()}
        budget_s = self._times.budget_s
        off = self._switch_off(Deadline(budget_s / 2), trace)
        if not off.sent:
            result = self._result("cycle", trace, off.trouble, NOTHING_SENT, **asked)
            self._note_cycle(result)
            return result
        try:
            if off.trouble is None:
                off_since = off.held_since or time.monotonic()
                self._pause.wait(max(0.0, off_s - (time.monotonic() - off_since)))
                if while_off is not None:
                    while_off()
        finally:
            # Also after a failed off (it may still happen late) and when this wait was interrupted.
            on, watch = self._switch_on(Deadline(budget_s - off.seconds), trace)
        proofs: tuple[str, ...] = ()
        if on.trouble is None:
            if off.held_since is not None and on.held_since is not None:
                proofs = (READ_BACK,)
            proofs += prove() if prove is not None else ()
            self._pause.wait(on_s)
        result = self._result(
            "cycle",
            trace,
            on.trouble or off.trouble,
            self._loud if on.trouble else "switching off failed: " if off.trouble else "",
            remark="; ".join(remark for remark in (off.remark, on.remark) if remark),
            proved_by=proofs if off.trouble is None else (),
            switch_off_s=off.seconds,
            switch_on_s=on.seconds,
            **asked,
            **watch,
        )
        self._note_cycle(result)
        if on.trouble is None:
            self._forget_intent()  # Last, so that a cycle that is cut short anywhere is found by the next holder.
        return result

    def restore(self, why: str) -> PowerResult | None:
        """If somebody meant to switch this board off and never proved it on again, switch it on.

        Returns:
            None if there was nothing to restore.
        """
        record = self._record.read()
        if record is None or not record.off_intended:
            return None
        return self._on(why)

    def first_look(self) -> PowerResult | None:
        """Where nothing is on record, as after a start of the host, switch the board on if its relay says off.

        Returns:
            None if there was nothing to do, or the relay cannot be asked: whoever needs it will be told.
        """
        if self._record.read() is not None:
            return None
        try:
            state = self.state()
        except RelayError:
            return None
        if state == "on":
            self._record.write(PowerRecord())
        if state != "off":
            return None
        self._record.write(PowerRecord(off_intended=True))
        return self.restore("the relay was off, and nothing was on record about it")

    def close(self) -> None:
        """Let go of the driver."""
        self._driver.close()

    @property
    def _loud(self) -> str:
        return f"THE BOARD OF {self._slot_id} MAY BE OFF, switch {self.name} on by hand: "

    def _on(self, recovers_from: str = "") -> PowerResult:
        trace = Trace()
        switched, watch = self._switch_on(Deadline(self._times.budget_s), trace)
        if switched.trouble is None:
            if recovers_from:
                self._emit(Recovered(slot=self._slot_id, what="power restored", reason=recovers_from))
            self._forget_intent()
        return self._switched("on", trace, switched, switch_on_s=switched.seconds, **watch)

    def _cool_down(self) -> float:
        record = self._record.read()
        wait_s = record.cooldown_left_s(self._times.cooldown_s) if record else 0.0
        self._pause.wait(wait_s)
        return round(wait_s, 3)

    def _switch_off(self, deadline: Deadline, trace: Trace) -> Switched:
        def write_ahead() -> None:
            record = self._record.read() or PowerRecord()
            self._record.write(replace(record, off_intended=True, off_sent=time.time()))
            if not trace.attempts:
                self._emit(PowerOffIntended(slot=self._slot_id, entity=self.name))

        switched = self._switcher.switch("off", deadline, trace, write_ahead)
        if switched.sent:
            record = self._record.read() or PowerRecord()
            self._record.write(replace(record, off_sent=0.0 if switched.settled else time.time()))
        self._note_switch("off", switched)
        return switched

    def _switch_on(self, deadline: Deadline, trace: Trace) -> tuple[Switched, dict[str, Any]]:
        switched = self._switcher.switch("on", deadline, trace)
        self._note_switch("on", switched)
        record = self._record.read()
        expected_s = record.watch_left_s(self._times.watch_s) if record else 0.0
        watch = deadline.within(expected_s)
        start, late = time.monotonic(), 0
        while switched.trouble is None and switched.held_since is not None and watch.left:
            stayed = self._switcher.stays_on(watch, trace)
            if stayed:
                break
            switched = self._switcher.switch("on", deadline, trace)
            self._note_switch("on", switched)
            if stayed is False:
                late += 1
                if switched.trouble is None:
                    why = "an off that nobody had seen arrive came after power was back; it was switched on again"
                    self._emit(Recovered(slot=self._slot_id, what="late off undone", reason=why))
        return switched, {"watched_s": round(time.monotonic() - start, 3), "late_offs": late}

    def _forget_intent(self) -> None:
        record = self._record.read()
        if record is None:
            self._record.write(PowerRecord())
        elif record.off_intended:
            self._record.write(PowerRecord(last_cycle_end=time.time()))

    def _switched(self, target: Target, trace: Trace, switched: Switched, **more: Any) -> PowerResult:
        proved = switched.trouble is None and switched.held_since is not None
        return self._result(
            target,
            trace,
            switched.trouble,
            self._loud if target == "on" else "" if switched.sent else NOTHING_SENT,
            remark=switched.remark,
            proved_by=(READ_BACK,) if proved else (),
            **more,
        )

    def _result(
        self,
        action: Action,
        trace: Trace,
        trouble: RelayError | None,
        reason: str = "",
        *,
        remark: str = "",
        proved_by: tuple[str, ...] = (),
        **more: Any,
    ) -> PowerResult:
        """`reason` goes before what the trouble says, `remark` is told where there is none."""
        if trouble is None:
            reason = remark if proved_by else "; ".join(text for text in (UNPROVED, remark) if text)
        else:
            reason += str(trouble)
        return PowerResult(
            status=_status(trouble),
            action=action,
            entity=self.name,
            seconds=round(trace.seconds, 3),
            attempts=trace.attempts,
            states=tuple(trace.states),
            reason=reason,
            proved_by=proved_by,
            **{key: round(value, 3) for key, value in more.items()},
        )

    def _note_switch(self, target: Target, switched: Switched) -> None:
        self._emit(
            PowerSwitched(
                slot=self._slot_id,
                target=target,
                status=_status(switched.trouble),
                seconds=round(switched.seconds, 3),
                reason=str(switched.trouble or switched.remark),
                attempts=switched.sent,
            )
        )

    def _note_cycle(self, result: PowerResult) -> None:
        data = result.to_json()
        del data["action"]
        self._emit(PowerCycled(slot=self._slot_id, **{**data, "proved_by": list(result.proved_by)}))


def _status(trouble: RelayError | None) -> Status:
    if trouble is None:
        return "ok"
    return "timeout" if isinstance(trouble, RelayTimeout) else "ha_error"
