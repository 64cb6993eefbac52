"""`python -m pytest_hut.virtual --spec FILE|-`: serve virtual boards for as long as standard input stays open.

The specification is one JSON object (with `-` it is the first line of standard input): `state_dir`, `runtime_dir`,
`boards` (each as `VirtualBoardSpec.to_json` gives it), and optionally `rfc2217` (default true) and `rfc2217_ports`
(slot id to TCP port). One line of JSON on standard output says how to reach everything once it is there, and one more
for each further line of standard input, by slot id, how many bytes have passed the wires. SIGTERM ends the server as
well; SIGINT does not, because a Ctrl-C in the terminal is meant for whoever started it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

from pytest_hut.bench.virtual_board import VirtualBoardSpec
from pytest_hut.errors import HutError
from pytest_hut.virtual.server import VirtualBench

_SWITCH_INTERVAL_S = 0.0005
"""Every chip is a thread: with Python's 5 ms, one that computes would make the others late on their wires."""
_EXIT_FAILED = 1
_STDIN = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the server; return the exit code: 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pytest_hut.virtual", description="Serve virtual boards.")
    parser.add_argument("--spec", required=True, metavar="FILE", help="JSON file, or - for the first line of stdin")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended = _termination_descriptor()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with _bench(_read_spec(options.spec)) as bench:
            print(json.dumps(bench.describe()), flush=True)  # noqa: T201 - the ready line is this program's output
            _serve_until_end(bench, ended)
    except (HutError, OSError, ValueError, TypeError, KeyError) as error:
        sys.stderr.write(f"cannot serve virtual boards: {error}\n")
        return _EXIT_FAILED
    return 0


def _termination_descriptor() -> int:
    """Return a descriptor that becomes readable on SIGTERM."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    signal.signal(signal.SIGTERM, lambda *_: None)
    return readable


def _read_spec(source: str) -> dict[str, Any]:
    spec = json.loads(_first_line_of_stdin() if source == "-" else Path(source).read_bytes())
    if not isinstance(spec, dict):
        raise ValueError("the specification is not a JSON object")
    return spec


def _first_line_of_stdin() -> bytearray:
    """Read byte by byte: what follows the line must stay visible to poll(), so no buffer may take it."""
    line = bytearray()
    while (byte := os.read(_STDIN, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _bench(spec: dict[str, Any]) -> VirtualBench:
    return VirtualBench(
        [VirtualBoardSpec.from_json(board) for board in spec["boards"]],
        Path(spec["state_dir"]),
        Path(spec["runtime_dir"]),
        rfc2217=spec.get("rfc2217", True),
        rfc2217_ports=spec.get("rfc2217_ports"),
    )


def _serve_until_end(bench: VirtualBench, terminated: int) -> None:
    poller = select.poll()
    poller.register(_STDIN, select.POLLIN)
    poller.register(terminated, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poller.poll()]
        if terminated in ready or not (asked := os.read(_STDIN, 4096)):
            return
        for _ in range(asked.count(b"\n")):
            print(json.dumps(bench.wire()), flush=True)  # noqa: T201 - see above


if __name__ == "__main__":
    sys.exit(main())
