"""Our RFC 2217 client: against servers of others on a pseudo-terminal, and against one that misbehaves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.board.flash_memory import FlashMemory
from pytest_hut.board.flash_plan import plan_flash
from pytest_hut.board.flasher import flash_images
from pytest_hut.board.progress import Silent
from pytest_hut.errors import PortError
from pytest_hut.firmware.imageset import FlashImage
from pytest_hut.link import telnet
from pytest_hut.link.rfc2217 import Rfc2217Link
from pytest_hut.link.telnet import Negotiation, Subnegotiation, TelnetParser, com_port, escape, negotiation
from pytest_hut.virtual.client import start_virtual_bench

EVERY_BYTE = bytes(range(256)) * 20


class SerialDevice:
    """The far end of a serial device."""

    def __init__(self) -> None:
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            assert select.select([self.master], [], [], 5)[0], f"only {len(data)} of {count} bytes arrived"
            data += os.read(self.master, 4096)
        return data

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.master, data[:1024]) :]

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def device() -> Iterator[SerialDevice]:
    with closing(SerialDevice()) as made:
        yield made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def receive(link: Rfc2217Link, count: int) -> bytes:
    data = b""
    deadline = time.monotonic() + 5
    while len(data) < count and time.monotonic() < deadline:
        data += link.receive(1)
    return data


SER2NET = """\
define: &banner ""
connection: &con
  accepter: telnet(rfc2217),tcp,127.0.0.1,{port}
  connector: serialdev,{device},115200n81,local
  options:
    kickolduser: true
"""


@pytest.fixture
def ser2net(device: SerialDevice, tmp_path: Path) -> Iterator[str]:
    """The URL of a ser2net that serves `device`."""
    program = shutil.which("ser2net") or shutil.which("ser2net", path="/usr/sbin")
    if program is None:
        pytest.skip("ser2net is not installed (apt-get install ser2net)")
    port = free_port()
    config = tmp_path / "ser2net.yaml"
    config.write_text(SER2NET.format(port=port, device=device.path))
    process = subprocess.Popen([program, "-n", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"rfc2217://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def test_every_byte_passes_both_ways_through_ser2net(ser2net: str, device: SerialDevice) -> None:
    link = Rfc2217Link(ser2net, 115200)
    link.open(10)
    with closing(link):
        writer = threading.Thread(target=link.write, args=(EVERY_BYTE,))
        writer.start()
        assert device.read(len(EVERY_BYTE)) == EVERY_BYTE
        writer.join()

        writer = threading.Thread(target=device.write, args=(EVERY_BYTE,))
        writer.start()
        assert receive(link, len(EVERY_BYTE)) == EVERY_BYTE
        writer.join()

        link.baudrate = 57600
        link.write(b"still there")
        assert device.read(11) == b"still there"


ESPTOOL_CFG = """\
[esptool]
custom_reset_sequence = D0|R1|W0.1|D1|R0|W0.05|D0
custom_hard_reset_sequence = R1|W0.1|R0
"""
"""A virtual board's lines are behind a network port, where esptool's server cannot set both at once."""


def test_flashing_through_esptools_server_which_resets_the_chip_itself(tmp_path: Path) -> None:
    (tmp_path / "esptool.cfg").write_text(ESPTOOL_CFG)
    image = FlashImage("data", 0x10000, EVERY_BYTE[:4096])
    with start_virtual_bench([VirtualBoardSpec("hut-77", paced=False)], tmp_path / "state") as bench:
        port, board = free_port(), bench.describe["boards"]["hut-77"]["rfc2217"]
        server = subprocess.Popen(
            [sys.executable, "-m", "esp_rfc2217_server", "-p", str(port), board],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        link = Rfc2217Link(f"rfc2217://127.0.0.1:{port}", 115200)
        try:
            link.open(10)
            outcome = flash_images(
                link, "classic", "esp32", 115200, plan_flash([image], None), FlashMemory(), None, Silent()
            )
        finally:
            link.close()
            server.terminate()
            server.wait(10)
    assert outcome.written == ("data",)
    assert (tmp_path / "state/hut-77/flash.bin").read_bytes()[image.offset : image.end] == image.data


class Scripted:
    """A server in this process, for what no real one does."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self.agrees = True
        self.baud_offered: int | None = None
        self.acknowledges_lines = True
        self.lines = {telnet.CONTROL_GET_DTR: telnet.CONTROL_DTR_ON, telnet.CONTROL_GET_RTS: telnet.CONTROL_RTS_ON}
        self.controls: list[int] = []
        self.data = bytearray()
        self.refused: list[Negotiation] = []
        self.arrived = threading.Condition()
        self.connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        if self.connection is not None:
            self.connection.close()

    def wait_for(self, count: int) -> bytes:
        with self.arrived:
            self.arrived.wait_for(lambda: len(self.data) >= count, 5)
            return bytes(self.data)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        self.connection = connection
        parser = TelnetParser()
        try:
            while chunk := connection.recv(4096):
                for item in parser.feed(chunk):
                    connection.sendall(self._answer(item))
        except OSError:
            return

    def _answer(self, item: bytes | Negotiation | Subnegotiation) -> bytes:
        match item:
            case bytes():
                with self.arrived:
                    self.data += item
                    self.arrived.notify_all()
            case Negotiation(verb=telnet.WILL):
                return negotiation(telnet.DO if self.agrees else telnet.DONT, item.option)
            case Negotiation(verb=telnet.WONT | telnet.DONT):
                self.refused.append(item)
            case Subnegotiation(data=data) if data[0] == telnet.SET_BAUDRATE:
                offer = data[1:] if self.baud_offered is None else self.baud_offered.to_bytes(4, "big")
                return com_port(data[0] + telnet.FROM_SERVER, offer)
            case Subnegotiation(data=data) if data[0] == telnet.SET_CONTROL:
                value = data[1]
                if value in self.lines:
                    return com_port(data[0] + telnet.FROM_SERVER, bytes([self.lines[value]]))
                if value != telnet.CONTROL_NO_FLOW:
                    self.controls.append(value)
                    if not self.acknowledges_lines:
                        return b""
                return com_port(data[0] + telnet.FROM_SERVER, data[1:])
            case Subnegotiation(data=data):
                return com_port(data[0] + telnet.FROM_SERVER, data[1:])
        return b""


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with closing(Scripted()) as made:
        yield made


@pytest.fixture
def link(scripted: Scripted) -> Iterator[Rfc2217Link]:
    made = Rfc2217Link(scripted.url, 115200)
    made.open(5)
    with closing(made):
        yield made


def test_opening_touches_no_line_that_pulls_nothing(scripted: Scripted, link: Rfc2217Link) -> None:
    assert scripted.controls == []


def test_lines_that_hold_the_board_are_released(scripted: Scripted) -> None:
    scripted.lines[telnet.CONTROL_GET_DTR] = telnet.CONTROL_DTR_OFF
    made = Rfc2217Link(scripted.url, 115200)
    made.open(5)
    made.close()

    assert scripted.controls == [telnet.CONTROL_RTS_OFF]


def test_no_way_between_two_states_is_a_reset_by_accident(scripted: Scripted, link: Rfc2217Link) -> None:
    link.set_lines(dtr=False, rts=False)
    link.set_lines(dtr=False, rts=True)
    link.set_lines(dtr=True, rts=False)
    link.set_lines(dtr=True, rts=False)

    on, off = (telnet.CONTROL_DTR_ON, telnet.CONTROL_RTS_ON), (telnet.CONTROL_DTR_OFF, telnet.CONTROL_RTS_OFF)
    assert scripted.controls == [off[1], off[0], on[1], on[0], off[1]]


def test_a_server_that_does_not_acknowledge_lines_is_waited_for_once(scripted: Scripted, link: Rfc2217Link) -> None:
    scripted.acknowledges_lines = False
    start = time.monotonic()
    for _ in range(5):
        link.set_lines(dtr=False, rts=True)
        link.set_lines(dtr=False, rts=False)

    link.write(b"x")
    scripted.wait_for(1)
    assert len(scripted.controls) == 10
    assert time.monotonic() - start < 1.5


def test_what_was_not_offered_is_refused(scripted: Scripted, link: Rfc2217Link) -> None:
    assert scripted.connection is not None
    scripted.connection.sendall(negotiation(telnet.WILL, 1) + negotiation(telnet.DO, 24) + b"data")

    assert receive(link, 4) == b"data"
    link.write(b"x")
    scripted.wait_for(1)
    assert scripted.refused == [Negotiation(telnet.DONT, 1), Negotiation(telnet.WONT, 24)]


def test_writing_waits_while_the_server_says_so(scripted: Scripted, link: Rfc2217Link) -> None:
    assert scripted.connection is not None
    scripted.connection.sendall(com_port(telnet.FROM_SERVER + telnet.FLOWCONTROL_SUSPEND, b"") + b"!")
    assert receive(link, 1) == b"!"
    writer = threading.Thread(target=link.write, args=(b"later",))
    writer.start()
    assert scripted.data == b""
    scripted.connection.sendall(com_port(telnet.FROM_SERVER + telnet.FLOWCONTROL_RESUME, b""))

    assert scripted.wait_for(5) == b"later"
    writer.join()


def test_a_server_that_speaks_no_rfc2217_is_named(scripted: Scripted) -> None:
    scripted.agrees = False
    with pytest.raises(PortError, match="does not answer as an RFC 2217 server"):
        Rfc2217Link(scripted.url, 115200).open(0.5)


def test_a_rate_that_the_server_cannot_do_is_an_error(scripted: Scripted, link: Rfc2217Link) -> None:
    scripted.baud_offered = 115200
    with pytest.raises(PortError, match="does not do 2000000 baud"):
        link.baudrate = 2_000_000


def test_a_server_that_goes_away_ends_a_read_with_all_that_came(scripted: Scripted, link: Rfc2217Link) -> None:
    assert scripted.connection is not None
    scripted.connection.sendall(b"last words")
    scripted.connection.shutdown(socket.SHUT_RDWR)

    assert receive(link, 10) == b"last words"
    with pytest.raises(PortError, match="went away"):
        link.read()


def test_a_read_can_be_interrupted(link: Rfc2217Link) -> None:
    threading.Timer(0.05, link.interrupt).start()
    assert link.read() == b""


@pytest.mark.parametrize("url", ["rfc2217://host", "rfc2217://:1", "rfc2217://host:port"])
def test_a_bad_address_is_named(url: str) -> None:
    with pytest.raises(PortError, match="no address"):
        Rfc2217Link(url, 115200).open(1)


items = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=30),
        st.builds(Negotiation, st.sampled_from([251, 252, 253, 254]), st.integers(0, 255)),
        st.binary(max_size=12).map(lambda data: Subnegotiation(44, data)),
    ),
    max_size=8,
)


@given(sent=items, at=st.lists(st.integers(0, 400)))
def test_telnet_is_understood_whatever_the_chunks(
    sent: list[bytes | Negotiation | Subnegotiation], at: list[int]
) -> None:
    stream = b""
    for item in sent:
        match item:
            case bytes():
                stream += escape(item)
            case Negotiation(verb, option):
                stream += negotiation(verb, option)
            case Subnegotiation(_, data):
                stream += b"\xff\xfa\x2c" + escape(data) + b"\xff\xf0"
    places = sorted({min(place, len(stream)) for place in at})
    parser = TelnetParser()
    chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    heard = [item for chunk in chunks for item in parser.feed(chunk)]

    assert [item for item in heard if not isinstance(item, bytes)] == [
        item for item in sent if not isinstance(item, bytes)
    ]
    assert b"".join(item for item in heard if isinstance(item, bytes)) == b"".join(
        item for item in sent if isinstance(item, bytes)
    )


@given(noise=st.binary(max_size=300))
def test_no_noise_breaks_the_parser(noise: bytes) -> None:
    parser = TelnetParser()
    for start in range(0, len(noise), 7):
        list(parser.feed(noise[start : start + 7]))


def test_a_subnegotiation_without_end_is_an_error() -> None:
    parser = TelnetParser()
    with pytest.raises(ValueError, match="does not end"):
        for _ in range(20):
            list(parser.feed(b"\xff\xfa\x2c" + bytes(100)))
