"""Give the threads that read ports their turn while a test keeps the interpreter busy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pytest_hut.board.shared_setting import SharedSetting

TURN_S = 0.0001
"""How long a thread that wants the interpreter waits before the one that has it must hand it over.

Python's own 5 ms begin anew whenever the busy thread gives it up for a system call and takes it back at once; a test
that computes and makes some calls in between then keeps a reader out for seconds, and a fast line overruns.
"""


@contextlib.contextmanager
def prompt_turns() -> Iterator[None]:
    """While any thread is inside, turns are at most `TURN_S` seconds; afterwards as long as before."""
    with _turns.changed():
        yield


def _shorten() -> float:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(TURN_S, before))
    return before


_turns = SharedSetting(_shorten, sys.setswitchinterval)
