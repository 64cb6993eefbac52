"""The keys of a terminal, each as it is pressed."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
from collections.abc import Callable, Iterator

READ_SIZE = 1024
_INPUT_FLAGS, _LOCAL_FLAGS, _CONTROL_CHARACTERS = 0, 3, 6


@contextlib.contextmanager
def keys_to(receive: Callable[[bytes], object], terminal: int) -> Iterator[None]:
    """While inside, hand what is typed to `receive`, from a thread: no echo, no line editing, no signal keys.

    Enter arrives as a carriage return, which is what consoles of boards expect. When the terminal is gone, `receive`
    gets b"". Afterwards the terminal is as it was.
    """
    before = termios.tcgetattr(terminal)
    raw = termios.tcgetattr(terminal)
    raw[_INPUT_FLAGS] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
    raw[_LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    raw[_CONTROL_CHARACTERS][termios.VMIN], raw[_CONTROL_CHARACTERS][termios.VTIME] = 1, 0
    stop_read, stop_write = os.pipe()
    reader = threading.Thread(target=_read_keys, args=(terminal, stop_read, receive), name="hut-keyboard", daemon=True)
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, raw)
        reader.start()
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(stop_write)
        if reader.is_alive():
            reader.join()
        os.close(stop_read)


def _read_keys(terminal: int, stop: int, receive: Callable[[bytes], object]) -> None:
    poller = select.poll()
    poller.register(terminal, select.POLLIN)
    poller.register(stop, select.POLLIN)
    keys = b"-"
    while keys:
        if any(ready == stop for ready, _events in poller.poll()):
            return
        try:
            keys = os.read(terminal, READ_SIZE)
        except OSError:  # Hung up.
            keys = b""
        receive(keys)
