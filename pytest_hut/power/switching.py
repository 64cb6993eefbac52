"""Bring a relay into a state and prove it: wait until it can be commanded, command, read back until it holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pytest_hut.bench.models import PowerTimes
from pytest_hut.errors import RelayError
from pytest_hut.power.deadline import Deadline
from pytest_hut.power.driver import RelayDriver, RelayRefused, RelayTimeout, RelayUnknown
from pytest_hut.power.result import StateSeen

Target = Literal["on", "off"]

READ_BACK_EVERY_S = 0.1
"""A relay tells nobody when it has switched; it has to be asked."""

ASK_AGAIN_EVERY_S = 0.5
"""How often one that cannot be commanded yet is asked again, e.g. while its server restarts."""

READING_S = 1.0
"""What a reading may take although the time is over, so that the last one is not cut short."""

AFTER_ERROR_S = 1.0
"""How long a command that was answered with an error is given to have had an effect nevertheless."""


@dataclass
class Trace:
    """What one action went through so far."""

    start: float = field(default_factory=time.monotonic)
    attempts: int = 0
    states: list[StateSeen] = field(default_factory=list)

    def saw(self, state: str) -> None:
        """Note a state, unless it is the one that was seen last."""
        if not self.states or self.states[-1].state != state:
            self.states.append(StateSeen(state, round(self.seconds, 3)))

    @property
    def seconds(self) -> float:
        """Seconds since the action began."""
        return time.monotonic() - self.start


@dataclass(frozen=True)
class Switched:
    """How one switching ended."""

    seconds: float
    trouble: RelayError | None = None
    """Why it failed; None: it is done."""
    sent: int = 0
    """How many commands were sent; 0 means that the relay is as it was."""
    held_since: float | None = None
    """When, on the monotonic clock, the state that then held was first read; None: this relay never tells."""
    settled: bool = False
    """Whether no command can be under way any more: one was sent, and answered, and what it asked for was seen."""
    remark: str = ""
    """What went wrong although it is done."""


class Switcher:
    """Switches one relay, over any driver."""

    def __init__(self, driver: RelayDriver, times: PowerTimes) -> None:
        self._driver = driver
        self._times = times
        self._pause = threading.Event()

    def switch(
        self, target: Target, deadline: Deadline, trace: Trace, before_command: Callable[[], None] | None = None
    ) -> Switched:
        """Bring the relay into `target` before the deadline; `before_command` is called before each command.

        Nothing is sent before the relay says `on` or `off` and can be believed. For switching on that is waited for as
        long as there is time, for switching off only as long as a command may take. A state counts once it was read
        again and again for the slot's `stable_s`: software that shows what it hopes for takes it back within that time.
        """
        start = time.monotonic()
        sent, answered = 0, True
        while True:
            trouble = self._wait_until_ready(target, deadline, trace)
            if trouble is not None:
                break
            if before_command is not None:
                before_command()
            sent += 1
            trace.attempts += 1
            command_trouble = self._command(target, deadline)
            answered = answered and command_trouble is None
            if isinstance(command_trouble, RelayRefused):
                trouble = command_trouble
                break
            settle_s = self._times.settle_timeout_s
            if command_trouble is not None and not isinstance(command_trouble, RelayTimeout):
                settle_s = min(settle_s, AFTER_ERROR_S)
            held_since, trouble = self._read_back(target, deadline.within(settle_s), trace, command_trouble)
            if trouble is None:
                remark = f"{command_trouble}; it is {target} nevertheless" if command_trouble else ""
                settled = answered and sent == 1
                return Switched(time.monotonic() - start, None, sent, held_since, settled, remark)
            if isinstance(trouble, RelayRefused) or sent >= self._times.max_tries or not deadline.left:
                break
        return Switched(time.monotonic() - start, trouble, sent)

    def stays_on(self, deadline: Deadline, trace: Trace) -> bool | None:
        """Watch a relay that is on until the deadline. True: it stayed on. False: it went off. None: nobody knows."""
        known = True
        while deadline.left:
            self._pause.wait(min(READ_BACK_EVERY_S, deadline.left))
            try:
                state = self._driver.state(deadline.left + READING_S)
            except RelayError:
                known = False
                continue
            known = state == "on"
            if state is not None:
                trace.saw(state)
            if state == "off":
                return False
        return True if known else None

    def _wait_until_ready(self, target: Target, deadline: Deadline, trace: Trace) -> RelayError | None:
        """Return what stands in the way of a command at the end of the time, None if nothing does."""
        limit = deadline if target == "on" else deadline.within(self._times.settle_timeout_s)
        trouble: RelayError
        while True:
            try:
                state = self._driver.state(limit.left + READING_S)
            except RelayRefused as error:
                return error
            except RelayError as error:
                trouble = error
                if target == "off" and isinstance(error, RelayUnknown):
                    return trouble
            else:
                if state is None:
                    return None
                trace.saw(state)
                if state in ("on", "off"):
                    return None
                trouble = RelayError(f"{self._driver.name} is {state!r}, neither on nor off; check the relay")
            if not limit.left:
                return trouble
            self._pause.wait(min(ASK_AGAIN_EVERY_S, limit.left))

    def _command(self, target: Target, deadline: Deadline) -> RelayError | None:
        try:
            # One that blocks must leave time to find out what became of it.
            self._driver.command(target == "on", deadline.left / 2)
        except RelayError as error:
            return error
        return None

    def _read_back(
        self, target: Target, settle: Deadline, trace: Trace, command_trouble: RelayError | None
    ) -> tuple[float | None, RelayError | None]:
        """Return since when the state holds, or why it does not."""
        began = time.monotonic()
        since: float | None = None
        trouble: RelayError
        while True:
            try:
                state = self._driver.state(settle.left + READING_S)
            except RelayRefused as error:
                return None, error
            except RelayError as error:
                since, trouble = None, command_trouble or error
            else:
                if state is None:
                    return None, command_trouble
                trace.saw(state)
                now = time.monotonic()
                if state == target:
                    since = now if since is None else since
                    if now - since >= self._times.stable_s:
                        return since, None
                else:
                    since = None
                    trouble = command_trouble or RelayTimeout(
                        f"{self._driver.name} still says {state!r} {now - began:.3g} s after it was told to switch "
                        f"{target}"
                    )
            if since is None and not settle.left:
                return None, trouble
            self._pause.wait(READ_BACK_EVERY_S)
