"""Small programs for a virtual chip, and ways to talk to a virtual board from outside."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import serial

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.virtual.lines_socket import lines_path
from pytest_hut.virtual.machine import Machine, ResetCause
from pytest_hut.virtual.programs import ChipPrograms
from pytest_hut.virtual.server import VirtualBench


class RamFlash:
    """Just enough of a flash for programs that do not use it."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:
        raise AssertionError("no fake program writes")

    def erase(self, offset: int, length: int) -> None:
        raise AssertionError("no fake program erases")


def app(machine: Machine) -> ResetCause:
    """Say why it started, then obey single bytes; everything else is echoed."""
    machine.uart.write(f"app {machine.reset_cause.name}\r\n".encode())
    while True:
        heard = machine.uart.read(None)
        if heard == b"R":
            return ResetCause.SOFTWARE_CPU
        if heard.startswith(b"X"):
            raise RuntimeError("a bug in a program")
        if heard == b"B":
            machine.uart.write(b"faster\r\n")
            machine.uart.baud = 921600
        elif heard == b"M":
            machine.uart.write(str(machine.take_fault("md5_wrong_once")).encode() + b"\r\n")
        else:
            machine.uart.write(heard)


def loader(machine: Machine) -> ResetCause:
    """Say that it is the loader and wait for the end."""
    machine.uart.write(b"waiting for download\r\n")
    while True:
        machine.uart.read(None)


FAKES = ChipPrograms(download=loader, boot=app, open_flash=RamFlash)


@contextmanager
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="hut-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def bench_of(
    specs: Sequence[VirtualBoardSpec], state_dir: Path, programs: ChipPrograms = FAKES
) -> Iterator[VirtualBench]:
    """A bench in this process."""
    with short_dir() as folder, VirtualBench(specs, state_dir, folder / "run", programs=programs) as bench:
        yield bench


def open_tty(path: Path | str, baud: int = 115200) -> serial.Serial:
    """The board's tty as any tool opens it."""
    return serial.Serial(str(path), baud, timeout=3, exclusive=True)


class Lines:
    """A client of the companion socket."""

    def __init__(self, device: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(3)
        self._socket.connect(str(lines_path(device)))

    def set(self, *, dtr: bool, rts: bool) -> None:
        """Both at once; returns when it is done."""
        request = bytes([dtr | rts << 1])
        self._socket.sendall(request)
        assert self._socket.recv(1) == request

    def restart(self, tty: serial.Serial | None = None) -> None:
        """A short EN low; what came before is not in `tty` any more."""
        self.set(dtr=False, rts=True)
        if tty is not None:
            tty.reset_input_buffer()
        self.set(dtr=False, rts=False)

    def close(self) -> None:
        self._socket.close()

    def hung_up(self) -> bool:
        """Wait for the far end's hang-up."""
        return self._socket.recv(1) == b""


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
