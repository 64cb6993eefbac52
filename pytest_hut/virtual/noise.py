"""What a serial line does to bytes when it is not well: wrong baud rate, lost bytes, flipped bits. Pure functions."""

from __future__ import annotations

import random

from pytest_hut.bench.virtual_board import Faults

BAUD_TOLERANCE = 0.03
"""Relative difference of two baud rates up to which a UART still samples every bit right."""

_FRAME_BITS = 10


def bauds_match(one: int, other: int) -> bool:
    """Whether bytes sent at one rate are read right at the other."""
    return abs(one - other) <= BAUD_TOLERANCE * max(one, other)


def resample(data: bytes, sent_baud: int, sampled_baud: int) -> bytes:
    """Return what a receiver at `sampled_baud` makes of `data` sent back to back at `sent_baud` (8N1).

    The receiver works as UARTs do: a falling edge starts a frame, each bit is sampled in its middle, and the next
    frame starts after the stop bit, or after the line has been high again where the stop bit was not.
    """
    levels = _levels(data)
    step = sent_baud / sampled_baud
    received = bytearray()
    start = 0.0
    while (edge := levels.find(0, int(start))) >= 0:
        begin = max(start, float(edge))
        byte = 0
        for bit in range(8):
            byte |= _level(levels, begin + (bit + 1.5) * step) << bit
        received.append(byte)
        stop_sample = begin + 9.5 * step
        start = stop_sample
        if not _level(levels, stop_sample):
            idle = levels.find(1, int(stop_sample))
            start = float(idle) if idle >= 0 else float(len(levels))
    return bytes(received)


def _levels(data: bytes) -> bytearray:
    """The line, one entry a sender's bit: start bit, eight data bits from the lowest, stop bit."""
    levels = bytearray()
    for byte in data:
        levels.append(0)
        levels.extend((byte >> bit) & 1 for bit in range(8))
        levels.append(1)
    return levels


def _level(levels: bytearray, bit_time: float) -> int:
    position = int(bit_time)
    return levels[position] if position < len(levels) else 1


def wire_seconds(count: int, baud: int) -> float:
    """How long `count` bytes take at `baud`: ten bits each."""
    return count * _FRAME_BITS / baud


class LineFaults:
    """Loses and flips at the rates of a `Faults`, repeatable for one seed and one `direction`."""

    def __init__(self, faults: Faults, direction: str) -> None:
        self._lose = faults.lose_byte
        self._flip = faults.flip_bit
        self._random = random.Random(f"{faults.seed} {direction}")

    def apply(self, data: bytes) -> bytes:
        """Return `data` as it arrives."""
        if not self._lose and not self._flip:
            return data
        arrived = bytearray()
        for byte in data:
            if self._lose and self._random.random() < self._lose:
                continue
            if self._flip and self._random.random() < self._flip:
                byte ^= 1 << self._random.randrange(8)
            arrived.append(byte)
        return bytes(arrived)
