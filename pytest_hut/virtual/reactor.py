"""One thread that waits for everything a virtual bench must react to at once: sockets, hang-ups and timers."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
import traceback
from collections.abc import Callable


class TimerHandle:
    """A call that is still to come."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call; too late is no error."""
        self.call = None


class Reactor:
    """An epoll loop on a daemon thread. Handlers run on that thread, one after the other, and must not block."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="virtual bench reactor", daemon=True)
        self._thread.start()

    def register(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever epoll reports one of `events` (or a hang-up) for `fd`."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`; must come before it is closed, because the number may be used again."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> TimerHandle:
        """Run `call` on the reactor's thread after `delay_s` seconds."""
        handle = TimerHandle(call)
        with self._lock:
            heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), handle))
        os.eventfd_write(self._wake, 1)
        return handle

    def stop(self) -> None:
        """End the thread: no handler or timer runs any more."""
        self._ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()

    def close(self) -> None:
        """Free the descriptors of a stopped reactor."""
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._ending:
            for fd, _ in self._epoll.poll(self._seconds_to_next_timer()):
                if fd == self._wake:
                    os.eventfd_read(self._wake)
                elif (handler := self._handlers.get(fd)) is not None:
                    self._guarded(handler)
            for call in self._due_calls():
                self._guarded(call)

    def _seconds_to_next_timer(self) -> float | None:
        with self._lock:
            return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _due_calls(self) -> list[Callable[[], None]]:
        due: list[Callable[[], None]] = []
        with self._lock:
            while self._timers and self._timers[0][0] <= time.monotonic():
                _, _, handle = heapq.heappop(self._timers)
                if handle.call is not None:
                    due.append(handle.call)
        return due

    @staticmethod
    def _guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 - a broken handler of one board must not stop the other boards; it is logged
            traceback.print_exc()
