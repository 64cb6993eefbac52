"""A virtual board seen from outside: its tty, its lines, its network port, its supply and its faults."""

from __future__ import annotations

import fcntl
import gc
import os
import select
import socket
import sys
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import serial
from inotify_simple import INotify, flags
from virtual_fakes import FAKES, Lines, RamFlash, bench_of, descriptors, loader, open_tty, short_dir

from pytest_hut.bench.virtual_board import Faults, VirtualBoardSpec
from pytest_hut.errors import InfrastructureError
from pytest_hut.virtual.board import ENUMERATION_S, board_mac
from pytest_hut.virtual.circuit import EN_RISE_S
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.noise import LineFaults
from pytest_hut.virtual.programs import ChipPrograms
from pytest_hut.virtual.server import VirtualBench

FAST = VirtualBoardSpec("hut-01", paced=False)
PACED = VirtualBoardSpec("hut-01")
READY = b"app POWER_ON\r\n"
DOWNLOAD = b"waiting for download\r\n"


def wait_until(path: Path, *, exists: bool, seconds: float = 3) -> None:
    """Wait for a device to come or go: the same look that udev-less tools take."""
    end = time.monotonic() + seconds
    while path.is_symlink() is not exists:
        assert time.monotonic() < end, f"{path} still {'missing' if exists else 'there'}"
        time.sleep(0.005)


def rfc2217_client(url: str, baud: int = 115200) -> serial.SerialBase:
    return serial.serial_for_url(url, baud, timeout=3)


def test_a_tool_opens_the_path_resets_the_board_and_talks_to_it(tmp_path: Path) -> None:
    with bench_of([PACED], tmp_path) as bench:
        board = bench.boards["hut-01"]
        assert board.device.name == f"usb-Virtual_hut-01_{board.mac.hex().upper()}-if00-port0"
        with open_tty(board.device) as tty:
            lines = Lines(board.device)
            lines.restart(tty)
            assert tty.read_until() == READY
            tty.write(b"hello")
            assert tty.read(5) == b"hello"
            lines.close()


def test_macs_are_distinct_stable_and_locally_administered(tmp_path: Path) -> None:
    macs = {board_mac(VirtualBoardSpec(f"hut-{number:02}")) for number in range(50)}
    assert len(macs) == 50
    assert all(mac[0] & 3 == 2 for mac in macs)
    assert board_mac(VirtualBoardSpec("hut-01", mac="24:0a:c4:00:01:10")) == bytes.fromhex("240ac4000110")
    with pytest.raises(ValueError, match="MAC"):
        board_mac(VirtualBoardSpec("hut-01", mac="24:0a"))


def test_io0_low_at_reset_is_download_mode_and_closing_the_lines_releases_them(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        lines.set(dtr=False, rts=False)
        lines.set(dtr=True, rts=True)
        lines.set(dtr=False, rts=True)
        tty.reset_input_buffer()
        lines.set(dtr=True, rts=False)
        assert tty.read_until() == DOWNLOAD
        lines.set(dtr=False, rts=False)
        lines.set(dtr=False, rts=True)
        lines.close()
        assert tty.read_until() == READY


def test_lines_set_one_after_the_other_enter_download_mode_if_they_come_before_en_has_risen(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        gap_s = EN_RISE_S
        while gap_s >= EN_RISE_S:  # again if this machine was too slow for the capacitor
            lines.set(dtr=False, rts=True)
            tty.reset_input_buffer()
            begin = time.monotonic()
            lines.set(dtr=True, rts=True)
            lines.set(dtr=True, rts=False)
            gap_s = time.monotonic() - begin
        assert tty.read_until() == DOWNLOAD
        lines.close()


def test_held_in_reset_the_chip_is_silent_and_deaf(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        lines.set(dtr=False, rts=True)
        tty.reset_input_buffer()
        tty.write(b"lost")
        assert not select.select([tty], [], [], 0.05)[0]
        lines.set(dtr=False, rts=False)
        assert tty.read_until() == READY
        tty.write(b"heard")
        assert tty.read(5) == b"heard"
        lines.close()


def test_a_program_resets_its_chip_and_a_broken_one_hangs_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        lines.restart(tty)
        assert tty.read_until() == READY
        tty.write(b"R")
        assert tty.read_until() == b"app SOFTWARE_CPU\r\n"
        tty.write(b"X")
        tty.write(b"anybody?")
        assert not select.select([tty], [], [], 0.05)[0]
        assert "a bug in a program" in capfd.readouterr().err
        lines.restart(tty)
        assert tty.read_until() == READY
        lines.close()


def test_paced_bytes_take_their_time_and_all_arrive(tmp_path: Path) -> None:
    text = bytes(range(256)) * 4
    seconds: list[float] = []

    def talk(machine: Machine) -> ResetCause:
        begin = time.monotonic()
        machine.uart.write(text)
        seconds.append(time.monotonic() - begin)
        return loader(machine)

    programs = replace(FAKES, boot=talk)
    with bench_of([PACED], tmp_path, programs) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        lines.restart(tty)
        assert tty.read(len(text)) == text
        assert tty.read_until() == DOWNLOAD
        lines.close()
    wire = len(text) * 10 / 115200
    assert wire * 0.9 < seconds[0] < wire * 2


def test_the_host_waits_for_a_paced_wire(tmp_path: Path) -> None:
    with bench_of([PACED], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        lines.restart(tty)
        assert tty.read_until() == READY
        text = b"0123456789" * 100
        begin = time.monotonic()
        tty.write(text)
        assert tty.read(len(text)) == text
        assert time.monotonic() - begin > len(text) * 10 / 115200
        lines.close()


def test_another_baud_rate_is_garbage_until_both_agree(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        tty.baudrate = 1_500_000
        lines.restart(tty)
        garbage = tty.read(4)
        assert READY[:4] not in garbage
        assert len(garbage) == 4
        tty.baudrate = 115200
        lines.restart(tty)
        assert tty.read_until().endswith(READY)
        tty.write(b"B")
        assert tty.read_until() == b"faster\r\n"
        tty.baudrate = 921600
        tty.write(b"fast")
        assert tty.read(4) == b"fast"
        tty.baudrate = 115200 * 102 // 100
        lines.restart(tty)
        assert tty.read_until() == READY
        lines.close()


def test_the_chip_adopts_any_rate_of_the_host(tmp_path: Path) -> None:
    def adopting(machine: Machine) -> ResetCause:
        machine.uart.adopt_host_baud()
        machine.uart.write(f"{machine.uart.baud}\r\n".encode())
        return loader(machine)

    programs = replace(FAKES, boot=adopting)
    with bench_of([FAST], tmp_path, programs) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        lines = Lines(bench.boards["hut-01"].device)
        for baud in (9600, 250_000, 921_600, 2_000_000, 1_234_567):
            tty.baudrate = baud
            tty.reset_input_buffer()
            lines.restart(tty)
            assert tty.read_until() == f"{baud}\r\n".encode()
            assert tty.read_until() == DOWNLOAD
        lines.close()


def test_what_nobody_read_does_not_greet_the_next_one(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench:
        board = bench.boards["hut-01"]
        lines = Lines(board.device)
        first = os.open(board.device, os.O_RDWR | os.O_NOCTTY)
        lines.restart()
        assert select.select([first], [], [], 3)[0]
        os.close(first)
        for _ in range(3):  # each is lost, because nobody has the device open
            lines.restart()
        wait_for_reactor(bench)
        second = os.open(board.device, os.O_RDWR | os.O_NOCTTY)
        assert not select.select([second], [], [], 0.05)[0]
        lines.restart()
        assert select.select([second], [], [], 3)[0]
        os.close(second)
        lines.close()


def test_exclusive_mode_ends_with_the_host_that_asked_for_it(tmp_path: Path) -> None:
    get_exclusive = 0x80045440  # TIOCGEXCL
    with bench_of([FAST], tmp_path) as bench:
        device = bench.boards["hut-01"].device
        for _ in range(2):
            owner = os.open(device, os.O_RDWR | os.O_NOCTTY)
            fcntl.ioctl(owner, termios.TIOCEXCL)
            assert int.from_bytes(fcntl.ioctl(owner, get_exclusive, bytes(4)), sys.byteorder) == 1
            os.close(owner)
            wait_for_reactor(bench)
            next_one = os.open(device, os.O_RDWR | os.O_NOCTTY)
            assert int.from_bytes(fcntl.ioctl(next_one, get_exclusive, bytes(4)), sys.byteorder) == 0
            os.close(next_one)
            wait_for_reactor(bench)


def wait_for_reactor(bench: VirtualBench) -> None:
    """Wait until everything that happened so far has been reacted to."""
    done = threading.Event()
    bench.reactor.call_later(0.02, done.set)
    assert done.wait(3)


def test_nothing_is_echoed_before_a_client_configures_the_device(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path, replace(FAKES, boot=silent_forever)) as bench:
        plain = os.open(bench.boards["hut-01"].device, os.O_RDWR | os.O_NOCTTY)
        os.write(plain, b"echo?\r\n")
        assert not select.select([plain], [], [], 0.05)[0]
        os.close(plain)


def silent_forever(machine: Machine) -> ResetCause:
    while True:
        machine.uart.read(None)


def test_a_host_that_stops_reading_does_not_stop_a_paced_board(tmp_path: Path) -> None:
    done = threading.Event()

    def flood(machine: Machine) -> ResetCause:
        machine.uart.baud = 4_000_000
        machine.uart.write(bytes(200_000))
        done.set()
        return silent_forever(machine)

    with bench_of([PACED], tmp_path, replace(FAKES, boot=flood)) as bench, open_tty(bench.boards["hut-01"].device) as t:
        t.baudrate = 4_000_000
        lines = Lines(bench.boards["hut-01"].device)
        lines.restart()
        assert done.wait(5)
        lines.close()


def test_power_off_ends_a_program_that_waits_for_a_slow_host(tmp_path: Path) -> None:
    started = threading.Event()

    def flood(machine: Machine) -> ResetCause:
        started.set()
        while True:
            machine.uart.write(bytes(100_000))

    with bench_of([FAST], tmp_path, replace(FAKES, boot=flood)) as bench, open_tty(bench.boards["hut-01"].device):
        board = bench.boards["hut-01"]
        lines = Lines(board.device)
        lines.restart()
        assert started.wait(3)
        begin = time.monotonic()
        board.power(False)
        assert not board.powered
        lines.close()
    assert time.monotonic() - begin < 2


def test_power_survives_the_bench_and_follows_the_file(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench:
        board = bench.boards["hut-01"]
        assert board.powered
        assert board.power(False)
        assert not board.power(False)
        assert (tmp_path / "hut-01" / "power").read_text() == "off\n"
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        board = bench.boards["hut-01"]
        assert not board.powered
        assert not select.select([tty], [], [], 0.05)[0]
        (tmp_path / "hut-01" / "power").write_text("on\n")
        assert board.powered
        assert tty.read_until() == READY


def test_a_bus_powered_adapter_goes_and_comes_back_with_the_supply(tmp_path: Path) -> None:
    with bench_of([replace(FAST, bus_powered=True)], tmp_path) as bench:
        board = bench.boards["hut-01"]
        lines = Lines(board.device)
        tty = open_tty(board.device)
        lines.restart(tty)
        assert tty.read_until() == READY
        board.power(False)
        wait_until(board.device, exists=False)
        with pytest.raises(serial.SerialException):
            tty.read(1)
        tty.close()
        assert lines.hung_up()
        lines.close()
        assert not Path(f"{board.device}.lines").exists()
        begin = time.monotonic()
        board.power(True)
        wait_until(board.device, exists=True)
        assert time.monotonic() - begin > ENUMERATION_S * 0.9
        assert board.device.is_char_device()
        with open_tty(board.device) as tty:  # it booted while nobody could hear it
            lines = Lines(board.device)
            lines.restart(tty)
            assert tty.read_until() == READY
            lines.close()


def test_a_bus_powered_board_that_was_off_starts_without_its_port(tmp_path: Path) -> None:
    spec = replace(FAST, bus_powered=True)
    with bench_of([spec], tmp_path) as bench:
        bench.boards["hut-01"].power(False)
    with bench_of([spec], tmp_path) as bench:
        assert not bench.boards["hut-01"].device.is_symlink()
        bench.boards["hut-01"].power(True)
        wait_until(bench.boards["hut-01"].device, exists=True)


def test_silent_boards_say_nothing_and_can_be_cured(tmp_path: Path) -> None:
    with bench_of([replace(FAST, faults=Faults(silent=True))], tmp_path) as bench:
        board = bench.boards["hut-01"]
        with open_tty(board.device) as tty:
            lines = Lines(board.device)
            lines.restart(tty)
            tty.write(b"hello")
            assert not select.select([tty], [], [], 0.05)[0]
            board.set_faults(Faults())
            lines.restart(tty)
            assert tty.read_until() == READY
            lines.close()


def test_bytes_get_lost_the_same_way_each_time(tmp_path: Path) -> None:
    faults = Faults(lose_byte=0.2, seed=3)
    arriving = LineFaults(faults, "to the host").apply(READY)
    assert 0 < len(arriving) < len(READY)
    with bench_of([FAST], tmp_path) as bench, open_tty(bench.boards["hut-01"].device) as tty:
        board = bench.boards["hut-01"]
        for _ in range(3):
            board.power(False)
            board.set_faults(faults)
            tty.reset_input_buffer()
            board.power(True)
            assert tty.read(len(arriving)) == arriving
        assert not select.select([tty], [], [], 0.05)[0]


def test_brown_out_after_each_start_of_the_application_but_not_in_download_mode(tmp_path: Path) -> None:
    with bench_of([replace(FAST, faults=Faults(brownout_after_s=0.1))], tmp_path) as bench:
        board = bench.boards["hut-01"]
        with open_tty(board.device) as tty:
            lines = Lines(board.device)
            lines.restart(tty)
            expected = [READY, b"\r\n", b"Brownout detector was triggered\r\n", b"app BROWN_OUT\r\n", b"\r\n"]
            assert [tty.read_until() for _ in expected] == expected
            lines.set(dtr=False, rts=True)
            tty.reset_input_buffer()
            lines.set(dtr=True, rts=False)
            assert tty.read_until() == DOWNLOAD
            assert not select.select([tty], [], [], 0.2)[0]
            lines.close()


def test_the_port_vanishes_once_and_comes_back(tmp_path: Path) -> None:
    faults = Faults(vanish_after_s=0.05, vanish_for_s=0.1)
    with bench_of([replace(FAST, faults=faults)], tmp_path) as bench:
        board = bench.boards["hut-01"]
        wait_until(board.device, exists=False)
        wait_until(board.device, exists=True)
        with open_tty(board.device) as tty:
            lines = Lines(board.device)
            lines.restart(tty)
            assert tty.read_until() == READY
            wait_for_reactor(bench)
            tty.write(b"still here")
            assert tty.read(10) == b"still here"
            lines.close()


def test_a_once_fault_is_taken_once_each_time_it_is_set(tmp_path: Path) -> None:
    with bench_of([replace(FAST, faults=Faults(md5_wrong_once=True))], tmp_path) as bench:
        board = bench.boards["hut-01"]
        with open_tty(board.device) as tty:
            lines = Lines(board.device)
            lines.restart(tty)
            assert tty.read_until() == READY
            for expected in (b"True\r\n", b"False\r\n"):
                tty.write(b"M")
                assert tty.read_until() == expected
            board.set_faults(Faults(md5_wrong_once=True))
            tty.write(b"M")
            assert tty.read_until() == b"True\r\n"
            lines.close()


def test_rfc2217_reaches_the_same_board(tmp_path: Path) -> None:
    with bench_of([FAST], tmp_path) as bench:
        url = bench.boards["hut-01"].rfc2217_url
        assert url is not None
        with rfc2217_client(url) as port:
            port.rts = True  # pyserial opens with both asserted; as esptool resets, one line after the other
            port.dtr = False
            port.rts = True
            port.dtr = True
            port.rts = False
            assert port.read_until() == DOWNLOAD
            port.dtr = False
            port.rts = True
            port.rts = False
            assert port.read_until() == READY
            everything = bytes(range(256)).replace(b"R", b"") * 40
            port.write(everything)
            assert port.read(len(everything)) == everything
            port.write(b"B")
            assert port.read_until() == b"faster\r\n"
            port.baudrate = 921600
            port.write(b"fast")
            assert port.read(4) == b"fast"
            assert not port.cts
        with rfc2217_client(url) as port:
            port.rts = True
            port.dtr = False
            port.rts = False
            assert port.read_until() == READY


def test_rfc2217_serves_one_client_and_hangs_up_when_the_port_vanishes(tmp_path: Path) -> None:
    with bench_of([replace(FAST, bus_powered=True)], tmp_path) as bench:
        board = bench.boards["hut-01"]
        assert board.rfc2217_url is not None
        with rfc2217_client(board.rfc2217_url) as port:
            with pytest.raises(serial.SerialException):
                serial.serial_for_url(f"{board.rfc2217_url}?timeout=0.3", 115200)
            board.power(False)
            with pytest.raises(serial.SerialException):
                for _ in range(3):
                    port.read(1)


def test_servers_that_share_a_boards_state_share_its_power_and_flash(tmp_path: Path) -> None:
    bus_powered = replace(FAST, bus_powered=True)
    with bench_of([bus_powered], tmp_path) as first, bench_of([bus_powered], tmp_path) as second:
        ours, theirs = first.boards["hut-01"], second.boards["hut-01"]
        with INotify() as watcher:
            watcher.add_watch(theirs.device.parent, flags.DELETE | flags.MOVED_TO | flags.CREATE)
            assert ours.power(False)
            while theirs.device.exists():
                assert watcher.read(timeout=5000)
            assert not theirs.powered
            assert theirs.power(True)
            while not theirs.device.exists():
                assert watcher.read(timeout=5000)
        assert ours.powered


def test_a_runtime_folder_too_deep_for_unix_sockets_is_one_sentence(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with (
        pytest.raises(InfrastructureError, match="too long for a unix socket"),
        VirtualBench([FAST], tmp_path, deep, programs=FAKES),
    ):
        raise AssertionError("started")
    assert not deep.exists()


def test_a_failed_start_leaves_nothing_and_the_end_neither(tmp_path: Path) -> None:
    def no_flash(path: Path, size: int) -> RamFlash:
        if "hut-02" in str(path):
            raise ValueError("wrong size")
        return RamFlash(path, size)

    specs = [FAST, replace(FAST, slot_id="hut-02")]
    gc.collect()
    before = descriptors()
    threads = threading.active_count()
    broken = ChipPrograms(download=loader, boot=silent_forever, open_flash=no_flash)
    with pytest.raises(ValueError, match="wrong size"), bench_of(specs, tmp_path, broken):
        raise AssertionError("started")
    with short_dir() as folder:
        with VirtualBench(specs, tmp_path, folder / "run", programs=FAKES) as bench:
            url = bench.boards["hut-01"].rfc2217_url
            assert url is not None
            client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
            assert client.recv(1)
        client.close()
        assert not (folder / "run").exists()
    assert descriptors() == before
    assert threading.active_count() == threads
