"""Something of the whole process that several threads want changed at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Before = TypeVar("Before")


class SharedSetting(Generic[Before]):
    """Changed when the first thread comes in, put back when the last one goes out."""

    def __init__(self, change: Callable[[], Before], put_back: Callable[[Before], None]) -> None:
        """`change` returns what `put_back` needs to know of how it was before."""
        self._change = change
        self._put_back = put_back
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[Before] = []

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """Have it changed while inside."""
        with self._lock:
            if self._inside == 0:
                self._before.append(self._change())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._put_back(self._before.pop())
