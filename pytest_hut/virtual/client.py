"""Start a virtual bench in a process of its own, tied to the life of this one."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.errors import InfrastructureError
from pytest_hut.virtual.board import device_path
from pytest_hut.virtual.lines_socket import fits_unix_socket, lines_path

READY_S = 10.0
"""How long the server may take to start."""
_END_S = 3.0
_STDERR_TAIL = 2000


class VirtualBenchProcess:
    """A running server. It ends with `close`, at the end of a `with` block, or when this process dies in any way."""

    def __init__(self, process: subprocess.Popen[bytes], describe: dict[str, Any], runtime_dir: Path) -> None:
        self._process = process
        self._runtime_dir = runtime_dir
        self.describe = describe
        """How to reach everything, see `VirtualBench.describe`."""

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def wire(self) -> dict[str, dict[str, int]]:
        """Return by slot id how many bytes have passed each board's wire so far: `to_chip` and `from_chip`.

        Raises InfrastructureError when the server does not answer.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise InfrastructureError("the virtual bench has ended") from None
        line = _read_line(self._process.stdout, time.monotonic() + READY_S)
        if not line:
            raise InfrastructureError("the virtual bench does not answer")
        counted: dict[str, dict[str, int]] = json.loads(line)
        return counted

    def close(self) -> None:
        """End the server and wait until it has cleaned up; twice is no error."""
        _end(self._process)
        shutil.rmtree(self._runtime_dir, ignore_errors=True)

    def __enter__(self) -> VirtualBenchProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_virtual_bench(
    specs: Sequence[VirtualBoardSpec],
    state_dir: Path,
    *,
    rfc2217: bool = True,
    rfc2217_ports: Mapping[str, int] | None = None,
) -> VirtualBenchProcess:
    """Start a server for `specs` and return once all its boards are there.

    The state of the boards is kept under `state_dir`. Raises InfrastructureError, with the server's own words, if it
    does not come up within `READY_S`.
    """
    runtime_dir = make_runtime_dir(specs)
    order = {
        "state_dir": str(state_dir.absolute()),
        "runtime_dir": str(runtime_dir),
        "boards": [spec.to_json() for spec in specs],
        "rfc2217": rfc2217,
        "rfc2217_ports": dict(rfc2217_ports or {}),
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pytest_hut.virtual", "--spec", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return VirtualBenchProcess(process, _handshake(process, order, errors), runtime_dir)
        except BaseException:
            _end(process)
            shutil.rmtree(runtime_dir, ignore_errors=True)
            raise


def _handshake(process: subprocess.Popen[bytes], order: dict[str, Any], errors: IO[bytes]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:  # it died already; its words are read below
        pass
    line = _read_line(process.stdout, time.monotonic() + READY_S)
    if line is None:
        raise InfrastructureError(f"the virtual bench did not start within {READY_S:g} s{_tail(errors)}")
    if not line:
        raise InfrastructureError(f"the virtual bench did not start{_tail(errors)}")
    described = json.loads(line)
    assert isinstance(described, dict)
    return described


def _read_line(stream: IO[bytes], deadline: float) -> bytes | None:
    """Return the first line, b"" if the stream ends before it, None at the deadline."""
    poller = select.poll()
    poller.register(stream, select.POLLIN)
    line = bytearray()
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        piece = os.read(stream.fileno(), 65536)
        if not piece:
            return b""
        line += piece
    return bytes(line)


def _tail(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _STDERR_TAIL))
    text = errors.read().decode(errors="replace").strip()
    return f": {text}" if text else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Cut the life line; a server that does not notice is killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:  # unsent bytes of a server that is gone
                continue
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_runtime_dir(specs: Sequence[VirtualBoardSpec]) -> Path:
    """Make a private folder for the ports of a bench, whose path leaves room for the boards' unix sockets."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):
        if not parent or not os.access(parent, os.W_OK | os.X_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="hut-", dir=parent))
        if all(fits_unix_socket(lines_path(device_path(spec, folder))) for spec in specs):
            return folder
        folder.rmdir()
    raise InfrastructureError("no folder with a path short enough for unix sockets: set XDG_RUNTIME_DIR to one")
