"""Expecting in more output than is searched at once, and reading while the test keeps the interpreter busy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from pytest_hut.board.console import PIECE, SEARCH_BACK, Console
from pytest_hut.board.raw_log import RawLog
from pytest_hut.board.reader import PortReader
from pytest_hut.board.turns import TURN_S, prompt_turns
from pytest_hut.board.window import StreamWindow
from pytest_hut.link.open import link_for

FILLER = b"I (1) app: " + b"." * 200 + b"\r\n"


class Line:
    """A console on a pseudo-terminal, and the board's end of it."""

    def __init__(self, console: Console, reader: PortReader, board: int) -> None:
        self.console = console
        self.reader = reader
        self.board = board

    def say(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.board, view) :]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    board, host = os.openpty()
    tty.setraw(host)
    link = link_for(os.ttyname(host), 115200)
    raw_log = RawLog(tmp_path / "console.log")
    reader = PortReader(link, raw_log, "bench", lambda _event: None)
    link.open(5)
    reader.start()
    try:
        yield Line(Console(link, reader, raw_log.path), reader, board)
    finally:
        reader.stop()
        link.close()
        raw_log.close()
        os.close(board)
        os.close(host)


def filler(size: int) -> bytes:
    return FILLER * (size // len(FILLER) + 1)


def test_nothing_in_a_long_backlog_is_passed_over(line: Line) -> None:
    line.console.mark()
    for number in range(6):
        line.say(f"mark {number}\r\n".encode() + filler(PIECE))
    line.say(b"the end\r\n")
    with line.reader.heard.changed:
        assert line.reader.heard.changed.wait_for(lambda: b"the end" in line.reader.heard.window.read(0), 5)

    found = []
    for _ in range(6):
        line.console.expect(r"mark (\d+)\r\n", timeout=5)
        found.append(int(line.console.match[1]))
    line.console.expect_exact("the end", timeout=5)

    assert found == list(range(6))


def test_a_match_may_be_as_long_as_a_core_dump(line: Line) -> None:
    line.console.mark()
    dump = filler(SEARCH_BACK * 3 // 4)
    line.say(b"BEGIN\r\n" + dump + b"END\r\n")

    line.console.expect(r"(?s)BEGIN\r\n(.*)END\r\n", timeout=10)

    assert line.console.match[1].encode() == dump


def test_before_is_all_that_came_before_the_match(line: Line) -> None:
    line.console.mark()
    flood = filler(2 * SEARCH_BACK)
    line.say(flood + b"found\r\n")

    line.console.expect("found", timeout=20)

    assert line.console.before.encode() == flood


def test_what_came_during_an_expect_that_timed_out_is_seen_by_the_next(line: Line) -> None:
    line.console.mark()
    line.say(b"early\r\n" + filler(PIECE))

    assert line.console.expect(["never", pexpect.TIMEOUT], timeout=0.3) == 1
    line.console.expect("early", timeout=1)

    assert line.console.after == "early"


def test_the_window_says_what_it_still_has() -> None:
    window = StreamWindow()
    window.append(b"0123456789")
    window.discard(4)

    assert (window.start, window.end) == (4, 10)
    assert window.read(6, 2) == b"67"
    assert window.read(0) == b"456789"


def test_a_busy_test_does_not_keep_the_reader_out(line: Line) -> None:
    line.console.mark()
    heard = line.reader.heard
    flood = "import os, sys\nwhile True: os.write(int(sys.argv[1]), b'0123456789abcde\\n' * 64)"
    with subprocess.Popen([sys.executable, "-c", flood, str(line.board)], pass_fds=[line.board]) as board:
        with heard.changed:
            assert heard.changed.wait_for(lambda: heard.window.end, 10)
        before, end = heard.window.end, time.monotonic() + 0.3
        while time.monotonic() < end:
            # A short system call between computations, over and over: the reader gets no turn of its own accord.
            board.poll()
            sum(number * number for number in range(10_000))
        taken = heard.window.end - before
        board.kill()

    assert taken > 300_000, "less than 1 MB/s, many times less than when the test sleeps"


def test_turns_are_as_before_when_the_last_reader_ended() -> None:
    before = sys.getswitchinterval()
    inside = threading.Event()
    leave = threading.Event()

    @prompt_turns()
    def read() -> None:
        inside.set()
        leave.wait()

    thread = threading.Thread(target=read)
    with prompt_turns():
        thread.start()
        inside.wait()
    assert sys.getswitchinterval() == pytest.approx(TURN_S)
    leave.set()
    thread.join()
    assert sys.getswitchinterval() == before
