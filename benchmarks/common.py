"""What the benchmarks share: a bare line, a board at its far end, our console on it, the peer, tables."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_hut.board.console import Console
from pytest_hut.board.raw_log import RawLog
from pytest_hut.board.reader import PortReader
from pytest_hut.link.base import Link
from pytest_hut.link.open import link_for

HERE = Path(__file__).parent

PEER = "pytest-embedded"
PEER_VERSION = "2.9.3"
PEER_PACKAGES = tuple(f"{name}=={PEER_VERSION}" for name in (PEER, f"{PEER}-serial", f"{PEER}-serial-esp"))

BAUD = 115200
SESSION_TIMEOUT_S = 600.0


class BareLine:
    """A pseudo-terminal without anything of ours behind it; `path` is what a serial port's path would be."""

    def __init__(self, folder: Path) -> None:
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave, termios.TCSANOW)
        self.path = folder / f"board-{self.master}"
        self.path.symlink_to(os.ttyname(self._slave))

    def __enter__(self) -> BareLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink()
        os.close(self.master)
        os.close(self._slave)


class BoardEnd:
    """`board_end.py` as a process on a line: prepared when made, writing from `go` on."""

    def __init__(self, line: BareLine, mode: str, *numbers: float) -> None:
        words = [str(HERE / "board_end.py"), str(line.master), mode, *map(str, numbers)]
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[line.master],
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def go_fd(self) -> int:
        """A line written here, by whichever process, is `go`."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def go(self) -> None:
        """Begin to write."""
        os.write(self.go_fd, b"go\n")

    def wait(self) -> None:
        """Wait until it has written everything."""
        self._process.wait()

    def written(self) -> dict[str, Any]:
        """Wait until all is written and return `board_end.Written`."""
        assert self._process.stdout is not None
        report = self._process.stdout.readline()
        self._process.wait()
        if not report:
            raise RuntimeError("the board's end of the line stopped early")
        written: dict[str, Any] = json.loads(report)
        return written

    def __enter__(self) -> BoardEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class OurConsole:
    """Our reader and console on a bare line."""

    console: Console
    reader: PortReader
    link: Link
    log: Path

    def reader_cpu_s(self) -> float:
        """Return the processor time the reader's thread has used, in seconds."""
        reader = next(thread for thread in threading.enumerate() if thread.name.startswith("hut-reader"))
        assert reader.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(reader.ident))


@contextlib.contextmanager
def our_console(path: Path, folder: Path, baud: int = BAUD) -> Iterator[OurConsole]:
    """Listen to the port at `path` as a held slot does, while inside."""
    log = folder / f"{path.name}.log"
    link, raw_log = link_for(str(path), baud), RawLog(log)
    reader = PortReader(link, raw_log, "benchmark", lambda _event: None)
    try:
        link.open(5.0)
        reader.start()
        yield OurConsole(Console(link, reader, log), reader, link, log)
    finally:
        reader.stop()
        link.close()
        raw_log.close()


def peer_python() -> Path | None:
    """Return the interpreter of a cached environment with the peer; None, after saying why, when there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hut-benchmarks"
    folder = cache / f"{PEER}-{PEER_VERSION}-python{platform.python_version()}-pytest{version('pytest')}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    print(f"installing {PEER} {PEER_VERSION} below {cache} ...", flush=True)
    install = [str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES, f"pytest=={version('pytest')}"]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            print(f"{PEER} cannot be installed, so it is left out: {' '.join(reason)}")
            return None
    complete.touch()
    return python


def run_pytest(
    python: str | Path, folder: Path, *arguments: str, go_fd: int | None = None, autoload: bool = True
) -> float:
    """Run pytest in `folder`, away from this repository and the user's settings; return its wall time in seconds.

    A test finds the `go_fd` of a board's end as the number in the environment's GO_FD. Without `autoload`, no installed
    plugin is loaded but those in the arguments.

    Raises RuntimeError with its output when it neither passed nor had nothing to do.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "HUT_"))}
    clean |= {"XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
    if not autoload:
        clean["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if go_fd is not None:
        clean["GO_FD"] = str(go_fd)
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "-c", os.devnull, *arguments]
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
        pass_fds=[] if go_fd is None else [go_fd],
    )
    seconds = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def peer_arguments(folder: Path, ports: Sequence[Path], baud: int = BAUD) -> tuple[str, ...]:
    """Return the options with which the peer's `dut` is the board at this port, or a tuple of those at these ports."""
    return (
        *("--embedded-services", "serial", "--count", str(len(ports)), "--port", "|".join(map(str, ports))),
        *("--baud", str(baud), "--root-logdir", str(folder / "peer-logs")),
    )


def slots_toml(folder: Path, ports: Sequence[Path]) -> Path:
    """Write a bench of slots `bench-0`, `bench-1`, ... at these ports, with locks of its own; return its path."""
    tables = [
        f'[slots.bench-{number}]\nport = "{port}"\nlock_path = "{folder / f"bench-{number}.lock"}"\n'
        for number, port in enumerate(ports)
    ]
    path = folder / "slots.toml"
    path.write_text("\n".join(tables))
    return path


def our_arguments(folder: Path, ports: Sequence[Path]) -> tuple[str, ...]:
    """Return the options with which our plugin holds the boards at these ports."""
    names = ",".join(f"bench-{number}" for number in range(len(ports)))
    return "--hut-config", str(slots_toml(folder, ports)), "--hut-slots", names, "--hut-evidence", str(folder / "hut")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the time of a measurement."""
    with tempfile.TemporaryDirectory(prefix="hut-benchmark-") as name:
        yield Path(name).resolve()


def print_title(what: str) -> None:
    """Say what is measured, and on what."""
    cores = len(os.sched_getaffinity(0))
    print(what)
    print(f"{cores} cores, {platform.system()}, Python {platform.python_version()}, pytest {version('pytest')}")
    print(f"load before the start: {os.getloadavg()[0]:.1f}\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns; the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print()


def ratio(theirs: float, ours: float) -> str:
    """Return how many times `ours` goes into `theirs`."""
    return f"{theirs / ours:.3g}x" if ours else "-"


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return the value that `fraction` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
