"""The board's end of a serial line: a process of its own that writes into the master of a pseudo-terminal.

    python board_end.py FD flood BYTES
    python board_end.py FD paced BYTES_PER_SECOND SECONDS
    python board_end.py FD ticks COUNT CHATTER_BYTES_PER_SECOND

It prepares what it will write, prints `ready`, waits for a line on its standard input, writes, and prints as JSON what
it wrote. Being another process it takes no part in the interpreter lock of the one that is measured.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import select
import sys
import time
from dataclasses import dataclass

END_MARK = "END-OF-STREAM"

PACE_S = 0.001
"""How often a paced writer writes; a USB adapter hands on what came at a similar rate."""

MOST_LATE_S = 0.005
"""Where this process was kept from running for longer, the board was silent: a UART has no burst in store."""

MEAN_TICK_S = 0.02

BOOT = (
    "ets Jul 29 2019 12:21:46",
    "",
    "rst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)",
    "load:0x3fff0030,len:7152",
    "entry 0x400805d8",
    "I (29) boot: ESP-IDF v5.1 2nd stage bootloader",
    "I (120) boot: Loaded app from partition at offset 0x10000",
    "I (441) app_init: Application information:",
    "I (441) app_init: Project name:     benchmark",
    "I (446) app_init: App version:      1.0",
    "I (457) app_init: ELF file SHA256:  0123456789abcdef...",
    "I (463) app_init: ESP-IDF:          v5.1",
)
"""A boot as an ESP32 prints it, so that the reader's parser is where it is while an application runs."""


@dataclass
class Written:
    """What went out, counted while it did."""

    sent: int = 0
    """Bytes that the board said, whether or not the line had room for them."""
    dropped: int = 0
    """Bytes of it that found the line's buffer full, as in a UART overrun."""
    sha256: str = ""
    """Of everything the board said."""
    start_ns: int = 0
    """When the first byte went out, on the `time.monotonic_ns` clock."""
    end_ns: int = 0


def log_of(size: int) -> bytes:
    """Return about `size` bytes of console: a boot, then an application's numbered lines, then the end mark."""
    lines = list(BOOT)
    length = sum(len(line) + 2 for line in lines)
    number = 0
    while length < size:
        line = f"I ({number * 3 + 500}) player: block {number} decoded, {number * 7919 % 65536} bytes in the buffer"
        lines.append(line)
        length += len(line) + 2
        number += 1
    return "\r\n".join([*lines, END_MARK, ""]).encode()


def flood(fd: int, data: bytes) -> Written:
    """Write as fast as the other end takes it."""
    written = Written(len(data), 0, hashlib.sha256(data).hexdigest(), time.monotonic_ns())
    _write_all(fd, data)
    written.end_ns = time.monotonic_ns()
    return written


def paced(fd: int, data: bytes, rate: float) -> Written:
    """Write at `rate` bytes a second and never wait for the other end; only the end mark is sure to arrive."""
    mark = f"{END_MARK}\r\n".encode()
    body = memoryview(data.removesuffix(mark))
    written = Written(len(data), 0, hashlib.sha256(data).hexdigest(), time.monotonic_ns())
    done, start = 0, time.monotonic()
    while done < len(body):
        _sleep_until(start + done / rate + PACE_S)
        start += max(0.0, time.monotonic() - (start + done / rate) - MOST_LATE_S)
        due = min(len(body), int((time.monotonic() - start) * rate))
        written.dropped += (due - done) - _write_what_fits(fd, body[done:due])
        done = due
    written.end_ns = time.monotonic_ns()
    _write_all(fd, mark)
    return written


def ticks(fd: int, count: int, chatter_rate: float) -> Written:
    """Write `count` lines `tick NUMBER MONOTONIC_NS` at random times, and other lines between them."""
    chance = random.Random(1)
    written = Written(start_ns=time.monotonic_ns())
    chatter = iter(log_of(int(chatter_rate * MEAN_TICK_S * 3 * count) + 1).splitlines(keepends=True)[len(BOOT) : -1])
    next_tick = next_chatter = time.monotonic()
    number = 0
    while number < count:
        if chatter_rate and next_chatter <= next_tick:
            _sleep_until(next_chatter)
            line = next(chatter)
            _write_all(fd, line)
            written.sent += len(line)
            next_chatter += len(line) / chatter_rate
        else:
            _sleep_until(next_tick)
            now = time.monotonic_ns()
            _write_all(fd, f"tick {number} {now}\r\n".encode())
            number += 1
            next_tick += chance.uniform(0.1, 1.9) * MEAN_TICK_S
    written.end_ns = time.monotonic_ns()
    return written


def _sleep_until(time_s: float) -> None:
    time.sleep(max(0.0, time_s - time.monotonic()))


def _write_what_fits(fd: int, data: memoryview) -> int:
    count = 0
    while count < len(data):
        try:
            count += os.write(fd, data[count:])
        except BlockingIOError:
            break
    return count


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


def main(arguments: list[str]) -> None:
    """See the module."""
    fd, mode, numbers = int(arguments[0]), arguments[1], [float(word) for word in arguments[2:]]
    os.set_blocking(fd, False)
    data = b""
    if mode != "ticks":
        data = log_of(int(numbers[0] * (numbers[1] if mode == "paced" else 1)))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    try:
        if mode == "flood":
            written = flood(fd, data)
        elif mode == "paced":
            written = paced(fd, data, numbers[0])
        else:
            written = ticks(fd, int(numbers[0]), numbers[1])
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        sys.exit("the other end of the line was closed")
    print(json.dumps(vars(written)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
