"""Give the threads that read ports their turn while a test keeps the interpreter busy."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

TURN_S = 0.0001
"""How long a thread that wants the interpreter waits before the one that has it must hand it over.

Python's own 5 ms begin anew whenever the busy thread gives it up for a system call and takes it back at once; a test
that computes and makes some calls in between then keeps a reader out for seconds, and a fast line overruns.
"""

_lock = threading.Lock()
_inside = 0
_before = 0.0


@contextlib.contextmanager
def prompt_turns() -> Iterator[None]:
    """While any thread is inside, turns are at most `TURN_S` seconds; afterwards as long as before."""
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(TURN_S, _before))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                sys.setswitchinterval(_before)
