"""Our side of the wire, over a bare pseudo-terminal: nothing lost, nothing false, a port that goes and comes back."""

from __future__ import annotations

import os
import pty
import threading
import tty
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pytest

from pytest_hut.board.console import Console
from pytest_hut.board.raw_log import RawLog
from pytest_hut.board.reader import PortReader
from pytest_hut.errors import BootLoop, ExpectTimeout, FirmwareCrash, NoSignOfLife, PortError
from pytest_hut.events.types import Event, FirmwareCrashed, PortLost, PortReturned
from pytest_hut.link.open import link_for
from pytest_hut.link.tty import TtyLink


class Device:
    """The far end of a serial device with a stable name that can be unplugged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plug()

    def plug(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        draft = self.path.with_suffix(".new")
        draft.symlink_to(os.ttyname(slave))
        draft.rename(self.path)
        # Kept open: Linux forgets what was written while no slave is open.
        self._slave = slave

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self._slave)
        os.close(self.master)

    def prints(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self.master, data) :]


class Bench:
    """A device, and everything of ours that listens to it."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.device = Device(folder / "usb-device")
        self.link = link_for(str(self.device.path), 115200)
        self.log_path = folder / "console.log"
        raw_log = RawLog(self.log_path)
        self.reader = PortReader(self.link, raw_log, "hut-01", self.events.append)
        self.console = Console(self.link, self.reader, self.log_path)
        self.link.open(5)
        self.reader.start()

    def end(self) -> None:
        self.reader.stop()
        self.link.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with ExitStack() as ends:
        ends.callback(made.end)
        yield made


BOOT = (
    "ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    "I (27) boot: ESP-IDF v4.3.5 2nd stage bootloader\r\n"
    "I (461) boot: Loaded app from partition at offset 0x10000\r\n"
    "I (548) cpu_start: Application information:\r\nI (549) cpu_start: Project name:     thing\r\n"
    "I (549) cpu_start: App version:      1.0\r\nI (550) cpu_start: ELF file SHA256:  cb6e33b554ef2339...\r\n"
    "I (551) cpu_start: ESP-IDF:          v4.3.5\r\n"
)


def test_strings_regexes_lists_and_groups(bench: Bench) -> None:
    bench.device.prints("one\r\ntemp=21.5 C\r\n")
    assert bench.console.expect(r"temp=(\d+)\.(\d)") == 0
    assert bench.console.match.groups() == ("21", "5")
    assert bench.console.before == "one\r\n"
    assert bench.console.after == "temp=21.5"
    assert bench.console.expect(["no", " C"]) == 1
    assert bench.console.expect(["no", pexpect.TIMEOUT], timeout=0.05) == 1


def test_text_in_pieces_and_half_characters(bench: Bench) -> None:
    snowman = "☃".encode()
    bench.device.prints(b"a" + snowman[:1])
    bench.device.prints(snowman[1:] + b"b\xff")
    bench.console.expect("a☃b�", timeout=5)


def test_what_was_not_found_is_told_with_what_there_was(bench: Bench) -> None:
    bench.device.prints("\x1b[0;32mI (1) main: hello\x1b[0m\r\n")
    bench.console.expect("hello")
    with pytest.raises(ExpectTimeout, match=r"did not see 'never' within 0\.05 s") as caught:
        bench.console.expect("never", timeout=0.05)
    assert "I (1) main: hello" in str(caught.value)


def test_nothing_from_before_a_mark_counts(bench: Bench) -> None:
    for round_number in range(20):
        bench.device.prints(f"answer {round_number}\r\n" * 200)
        bench.console.mark()
        with pytest.raises(ExpectTimeout):
            bench.console.expect("answer", timeout=0.01)


def test_a_crash_ends_a_wait_at_once_with_the_products_words(bench: Bench) -> None:
    bench.device.prints(BOOT)
    bench.console.expect_boot()
    threading.Timer(0.1, bench.device.prints, ["\r\nabort() was called at PC 0x400813b7 on core 0\r\n"]).start()
    with pytest.raises(FirmwareCrash, match="abort\\(\\) was called at PC 0x400813b7"):
        bench.console.expect("never", timeout=30)
    assert [event.kind for event in bench.events if isinstance(event, FirmwareCrashed)] == ["abort"]
    bench.console.mark()
    with pytest.raises(ExpectTimeout):
        bench.console.expect("never", timeout=0.05)


def test_what_matches_before_the_crash_is_still_found(bench: Bench) -> None:
    bench.device.prints("ready\r\nabort() was called at PC 0x1 on core 0\r\n")
    bench.console.expect("ready")
    with pytest.raises(FirmwareCrash):
        bench.console.expect("never")


def test_a_tolerated_crash_ends_nothing(bench: Bench) -> None:
    with bench.console.tolerating_faults():
        bench.device.prints("abort() was called at PC 0x1 on core 0\r\nafter\r\n")
        bench.console.expect("after")
    with pytest.raises(ExpectTimeout):
        bench.console.expect("never", timeout=0.05)


def test_each_boot_is_returned_once(bench: Bench) -> None:
    bench.device.prints(BOOT)
    assert bench.console.expect_boot().elf_sha256 == "cb6e33b554ef2339"
    bench.device.prints(BOOT.replace("0x1 (POWERON_RESET)", "0xc (SW_CPU_RESET)"))
    assert bench.console.expect_boot().reset_reason == "SW_CPU_RESET"


def test_a_restart_while_it_should_stay_up(bench: Bench) -> None:
    bench.device.prints(BOOT)
    bench.console.expect_boot()
    bench.console.expect_to_stay_up(0.05)
    threading.Timer(0.05, bench.device.prints, [BOOT.replace("0x1 (POWERON_RESET)", "0xc (SW_CPU_RESET)")]).start()
    with pytest.raises(BootLoop, match="SW_CPU_RESET"):
        bench.console.expect_to_stay_up(30)


def test_silence_after_a_reset_is_the_benchs_fault(bench: Bench) -> None:
    bench.console.mark_reset()
    with pytest.raises(NoSignOfLife, match="stayed silent"):
        bench.console.expect_boot(timeout=30)


def test_a_port_that_goes_ends_a_wait_and_one_that_comes_back_is_heard_again(bench: Bench) -> None:
    bench.device.unplug()
    with pytest.raises(PortError, match="went away"):
        bench.console.expect("never", timeout=30)
    bench.device.plug()
    heard = bench.reader.heard
    with heard.changed:
        assert heard.changed.wait_for(lambda: heard.lost_s is None, timeout=10)
    bench.device.prints("back\r\n")
    bench.console.expect("back")
    assert [type(event) for event in bench.events] == [PortLost, PortReturned]


def test_a_short_absence_ends_no_wait(bench: Bench) -> None:
    bench.device.unplug()
    bench.device.plug()
    threading.Timer(0.3, bench.device.prints, ["here again\r\n"]).start()
    bench.console.expect("here again", timeout=10)


def test_every_byte_is_on_disk_in_order(bench: Bench) -> None:
    content = b"".join(b"%07d\n" % number for number in range(50_000))
    writer = threading.Thread(target=bench.device.prints, args=[content])
    writer.start()
    bench.console.expect_exact("0049999\n", timeout=30)
    writer.join()
    assert bench.log_path.read_bytes() == content
    stamps = [line.split() for line in bench.log_path.with_suffix(".times").read_text().splitlines()]
    assert stamps[0][0] == "0"
    assert stamps == sorted(stamps, key=lambda stamp: (int(stamp[0]), float(stamp[1])))


def test_sending_reaches_the_board(bench: Bench) -> None:
    bench.console.send("status")
    bench.console.send("raw", end="")
    received = b""
    while len(received) < len(b"status\nraw"):
        received += os.read(bench.device.master, 100)
    assert received == b"status\nraw"


def test_the_port_is_lent_and_taken_back(bench: Bench) -> None:
    bench.reader.pause()
    bench.device.prints("for somebody else")
    bench.link.port.timeout = 5
    assert bench.link.port.read(8) == b"for some"
    bench.link.port.timeout = 0
    bench.reader.resume()
    bench.console.expect_exact("body else")


def test_a_board_that_never_stops_printing_can_be_marked_and_flashed(bench: Bench) -> None:
    ended = threading.Event()

    def babble() -> None:
        while not ended.is_set():
            bench.device.prints(b"babble\r\n" * 400)

    thread = threading.Thread(target=babble)
    thread.start()
    try:
        bench.console.mark()
        bench.console.expect("babble")
        bench.reader.pause()
        bench.reader.resume()
        bench.console.expect("babble")
    finally:
        ended.set()
        thread.join()


def test_one_owner_only(bench: Bench) -> None:
    second = TtyLink(str(bench.device.path), 115200)
    with pytest.raises(PortError, match="in use by another program"):
        second.open(0.05)


def test_a_missing_port_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "by-id" / "usb-late"
    link = TtyLink(str(path), 115200)
    with pytest.raises(PortError, match="is not there"):
        link.open(0.05)
    devices: list[Device] = []

    def appear() -> None:
        path.parent.mkdir()
        devices.append(Device(path))

    threading.Timer(0.2, appear).start()
    link.open(20)
    devices[0].prints("hello")
    assert link.read() == b"hello"
    link.close()


def test_what_is_no_serial_port(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(PortError, match="cannot be opened as a serial port"):
        TtyLink(str(plain), 115200).open(0.05)
    with pytest.raises(PortError, match="cannot be opened"):
        link_for("rfc2217://127.0.0.1:1", 115200).open(0.3)
    with pytest.raises(PortError, match="no URL"):
        link_for("nonsense://x", 115200).open(0.3)


def test_a_pseudo_terminal_without_lines_cannot_reset(bench: Bench) -> None:
    with pytest.raises(PortError, match="no DTR and RTS"):
        bench.link.set_lines(dtr=False, rts=True)
