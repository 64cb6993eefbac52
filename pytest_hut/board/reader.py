"""The thread that reads the port: it records, understands, and announces what comes, before anyone judges it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_hut.board.bootlog import BootLog
from pytest_hut.board.bootlog_model import (
    BootEvent,
    BootFaultSeen,
    BootLoopSeen,
    PanicSeen,
)
from pytest_hut.board.raw_log import RawLog
from pytest_hut.board.turns import prompt_turns
from pytest_hut.board.window import StreamWindow
from pytest_hut.errors import BootFailure, BootLoop, FirmwareCrash, HutError, InfrastructureError, PortError
from pytest_hut.events.types import Event, FirmwareCrashed, PortLost, PortReturned
from pytest_hut.link.base import Link

__tracebackhide__ = True  # A test's author wants to see the test's line, not ours.

CATCH_UP_S = 1.0
"""A board that never stops printing cannot be caught up with; this long it is tried."""

REOPEN_SLICE_S = 0.5
"""How long one attempt to get the port back may block, so that `stop` is never kept waiting longer."""


@dataclass
class Heard:
    """What the reader knows; read and written only while `changed` is held."""

    window: StreamWindow
    changed: threading.Condition = field(default_factory=threading.Condition)
    log: BootLog = field(default_factory=BootLog)
    last_byte_s: float = float("-inf")
    fault: HutError | None = None
    """The first thing since the last mark that ends any wait."""
    fault_s: float = 0.0
    lost_s: float | None = None
    """When the port went away, None while it is there."""
    lost_reason: str = ""
    losses: int = 0
    """How often the port went away."""
    quiet_reads: int = 0
    """How often the reader found nothing more to read after it was interrupted."""
    followers: list[Callable[[bytes], object]] = field(default_factory=list)
    """Who gets every piece as it arrives, from the reader's thread."""


class PortReader:
    """Owns reading from the link between `start` and `stop`; `pause` lends the port to somebody else."""

    def __init__(self, link: Link, raw_log: RawLog, slot_id: str, emit: Callable[[Event], None]) -> None:
        self.heard = Heard(window=StreamWindow(raw_log.offset))
        self._link = link
        self._raw_log = raw_log
        self._slot_id = slot_id
        self._emit = emit
        self._stopping = False
        self._pause_wanted = False
        self._pause_by = 0.0
        self._paused = threading.Event()
        self._resume = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hut-reader-{slot_id}", daemon=True)
        self._crash: BaseException | None = None

    def start(self) -> None:
        """Begin to read the open link."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stopping = True
        self._resume.set()
        if self._thread.is_alive():
            self._link.interrupt()
            self._thread.join()

    def catch_up(self) -> None:
        """Return once all that had arrived before the call is in `heard`; at once while nobody reads."""
        deadline = time.monotonic() + CATCH_UP_S
        with self.heard.changed:
            seen = self.heard.quiet_reads
            self._link.interrupt()
            while self.heard.quiet_reads == seen and self._reading and (left := deadline - time.monotonic()) > 0:
                self.heard.changed.wait(min(left, REOPEN_SLICE_S))

    @property
    def _reading(self) -> bool:
        return self._thread.is_alive() and not self._pause_wanted and self.heard.lost_s is None

    def pause(self) -> None:
        """Stop reading until `resume`, so that somebody else may use the port.

        Raises:
            PortError: the port is away, or the reader is gone.
        """
        self._resume.clear()
        self._paused.clear()
        self._pause_by = time.monotonic() + CATCH_UP_S
        self._pause_wanted = True
        self._link.interrupt()
        while not self._paused.wait(REOPEN_SLICE_S):
            with self.heard.changed:
                if self.heard.lost_s is not None or not self._thread.is_alive():
                    self._pause_wanted = False
                    raise self.port_error()

    def resume(self) -> None:
        """Read again."""
        self._pause_wanted = False
        self._resume.set()

    def port_error(self) -> PortError:
        """Return the reason why the port cannot be used now. `heard.changed` must be held."""
        if self._crash is not None:
            return PortError(f"the reader of {self._link.name} ended: {self._crash}")
        since = time.monotonic() - (self.heard.lost_s or time.monotonic())
        reason = self.heard.lost_reason or f"{self._link.name} went away"
        return PortError(f"{reason} and has not come back for {since:.1f} s; check power, cable and USB pass-through")

    @prompt_turns()
    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    data = self._link.read()
                except PortError as error:
                    self._wait_for_return(error)
                    continue
                if data:
                    self._take(data, time.monotonic())
                else:
                    with self.heard.changed:
                        self.heard.quiet_reads += 1
                        self.heard.changed.notify_all()
                if self._pause_wanted and (not data or time.monotonic() > self._pause_by):
                    self._paused.set()
                    self._resume.wait()
        except (OSError, HutError) as error:
            # E.g. a full disk: what is not recorded must not be judged.
            with self.heard.changed:
                self._crash = error
                self.heard.fault = InfrastructureError(f"the console of {self._link.name} cannot be recorded: {error}")
                self.heard.changed.notify_all()

    def _take(self, data: bytes, now: float) -> None:
        self._raw_log.append(data, now)
        heard = self.heard
        with heard.changed:
            heard.window.append(data)
            heard.last_byte_s = now
            for follower in heard.followers:
                follower(data)
            news = heard.log.feed(data, now)
            for event in news:
                if heard.fault is None:
                    heard.fault, heard.fault_s = _fault_of(event), now
            heard.changed.notify_all()
        for event in news:
            if isinstance(event, PanicSeen):
                self._emit(_crash_event(self._slot_id, event))

    def _wait_for_return(self, error: PortError) -> None:
        lost_s = time.monotonic()
        with self.heard.changed:
            self.heard.lost_s, self.heard.lost_reason = lost_s, str(error)
            self.heard.losses += 1
            self.heard.changed.notify_all()
        self._emit(PortLost(slot=self._slot_id, reason=str(error)))
        self._link.close()
        while not self._stopping:
            try:
                self._link.open(REOPEN_SLICE_S)
            except PortError:
                continue
            with self.heard.changed:
                self.heard.lost_s = None
                self.heard.changed.notify_all()
            self._emit(PortReturned(slot=self._slot_id, after_s=round(time.monotonic() - lost_s, 3)))
            return


def _fault_of(event: BootEvent) -> HutError | None:
    match event:
        case PanicSeen(panic=panic, boot=boot) if panic.fatal:
            after = f" {event.time_s - boot.reset_s:.1f} s after reset" if boot and boot.reset_s is not None else ""
            return FirmwareCrash(f"the firmware crashed{after} ({panic.kind.value}): {panic.text}")
        case BootFaultSeen(fault=fault):
            return BootFailure(f"the board cannot boot: {fault.cause}")
        case BootLoopSeen(resets=resets, boot=boot):
            return BootLoop(f"the board is in a boot loop: {resets} resets in a row, the last one {boot.reset_reason}")
    return None


def _crash_event(slot_id: str, event: PanicSeen) -> FirmwareCrashed:
    reset_s = event.boot.reset_s if event.boot else None
    return FirmwareCrashed(
        slot=slot_id,
        kind=event.panic.kind.value,
        text=event.panic.text,
        seconds_after_reset=round(event.time_s - reset_s, 3) if reset_s is not None else None,
    )
