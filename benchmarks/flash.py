"""How long flashing takes, beside esptool's command line and pytest-embedded on the same virtual boards.

    python benchmarks/flash.py [--bauds 921600,2000000] [--links local,rfc2217] [--slots 1,8,16,32] [--peer PYTHON]

The boards are paced to the baud rate. The firmware is the demo's with a 1 MiB image beside it of which 60 % are left
after compression: 2.3 MiB in all. `sent` are the bytes that passed the wire to the chip, counted at the virtual board
for all programs alike; `least` is the time in which the compressed images alone can pass the wire. `CPU` is that of
the flashing process, not of the virtual boards, which run on the same processors.

With one slot, a row of ours is one flash by a session that holds the slot; its wall time ends when the flash is
proved. esptool's rows are whole runs of `python -m esptool`, which is how its users pay for it. pytest-embedded's are
the set-up of a test, which flashes. With many slots all rows are whole commands, from start to end, boot included.

A pseudo-terminal has no modem lines; esptool and pytest-embedded get them by a shim (`benchmarks/lines`).
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import PEER, PEER_VERSION, print_table
from flash_boards import Boards, Step, boards, build_folder, child_cpu, ended, firmware, wire_seconds
from flash_peer import peer_sessions

import pytest_hut

AT_ONCE_S = 0.05
"""A flash that took less did not even restart the board: it has booted that firmware before in the same session."""

RFC2217_FACTOR = 1.1
MANY_FACTOR = 1.15


@dataclass
class Row:
    """One measured flash. Times in seconds; None is not measured, or not meant to be anything."""

    what: str
    wall_s: float
    cpu_s: float | None = None
    sent: int | None = None
    least_s: float | None = None
    goal_s: float | None = None

    def cells(self) -> list[str]:
        """The row as it is printed."""
        ratio = f"{self.wall_s / self.least_s:.2f}" if self.least_s else "-"
        met = "" if self.goal_s is None else "met" if self.wall_s <= self.goal_s else "MISSED"
        numbers = [self.cpu_s, self.least_s, self.goal_s]
        cpu, least, goal = ("-" if number is None else f"{number:.2f}" for number in numbers)
        sent = "-" if self.sent is None else str(self.sent)
        return [self.what, f"{self.wall_s:.2f}", cpu, sent, least, ratio, goal, met]


def show(title: str, rows: Sequence[Row]) -> None:
    """Print one table."""
    print(f"\n{title}")
    header = ("", "wall s", "CPU s", "sent B", "least s", "x least", "goal s", "")
    print_table(header, [row.cells() for row in rows])
    sys.stdout.flush()


def our_rows(bench: Boards, link: str, baud: int, wanted: Sequence[tuple[str, Step, float | None]]) -> list[Row]:
    """Run one session of ours; `wanted` are names, steps, and the least times where something is to be written."""
    rows = []
    process = bench.session(bench.slots[0], link, baud, [step for _, step, _ in wanted])
    assert process.stdout is not None and process.stdin is not None
    for what, _, least_s in wanted:
        before = bench.sent()
        told = process.stdout.readline()
        if not told:
            break
        result = json.loads(told)
        # A proof by the banner is found while the board boots, so that its time has a boot in it.
        note = " + boot" if result["proof"].startswith("ELF") and result["wall"] > AT_ONCE_S else ""
        rows.append(Row(what + note, result["wall"], result["cpu"], bench.sent() - before, least_s))
        process.stdin.write("\n")
        process.stdin.flush()
    ended(process)
    return rows


def one_slot(link: str, baud: int, peer: Path | None, local: dict[tuple[int, str], float]) -> None:
    """Print the table of everything one slot does. `local` remembers our local times, to compare the network's."""
    a, b = firmware("a").images, firmware("b").images
    least, least_app = wire_seconds(a, baud), wire_seconds(b[-1:], baud)
    again: tuple[str, Step, float | None] = ("new session", ("a", "auto"), None)
    sessions: list[list[tuple[str, Step, float | None]]] = [
        [
            ("full", ("a", "auto"), least),
            ("same session", ("a", "auto"), None),
            ("same, by MD5", ("a", "verify"), None),
        ],
        [again, ("one sector", ("sector", "auto"), None), ("one sector, by MD5", ("a", "verify"), None)],
        [
            ("a b a b: a", ("a", "auto"), None),
            *((f"a b a b: {name}", (name, "auto"), least_app) for name in "bab"),
            ("a boot alone", ("b", "boot"), None),
        ],
    ]
    with boards(1) as bench:
        rows = [row for wanted in sessions for row in our_rows(bench, link, baud, wanted)]
        boot_s = rows[-1].wall_s
        theirs = esptool_rows(bench, link, baud, least, least_app)
        for row in rows:
            row.goal_s = _goal_s(
                row, boot_s, theirs[0].wall_s, local.get((baud, row.what)) if link != "local" else None
            )
            if link == "local":
                local[baud, row.what] = row.wall_s
        rows += theirs
        if peer is not None:
            rows += peer_rows(peer, bench, link, baud, least)
    show(f"one slot, {link}, {baud} baud", rows)


def _goal_s(row: Row, boot_s: float, esptool_s: float, local_s: float | None) -> float | None:
    if row.what == "a boot alone":
        return None
    if row.what.endswith("+ boot"):
        goal_s = 0.2 + boot_s
    elif row.least_s:
        goal_s = 1.05 * row.least_s + 1
        if row.what == "full":
            goal_s = min(goal_s, esptool_s)
    elif "session" in row.what and row.wall_s <= AT_ONCE_S:
        goal_s = 0.2
    else:
        goal_s = 1.3 if "sector" in row.what else 1.2
    return goal_s if local_s is None or local_s <= AT_ONCE_S else min(goal_s, RFC2217_FACTOR * local_s)


def esptool_rows(bench: Boards, link: str, baud: int, least_s: float, least_app_s: float) -> list[Row]:
    """Run esptool's command line; over RFC 2217, where a run takes a minute, once."""
    rows = []
    a, b = firmware("a").images, firmware("b").images[-1:]
    runs = [("full", a, least_s), ("same again", a, None), ("1 MiB image", b, least_app_s)]
    for what, images, least in runs if link == "local" else runs[:1]:
        before, used, start = bench.sent(), child_cpu(), time.monotonic()
        ended(bench.esptool(bench.slots[0], link, baud, images))
        rows.append(Row(f"esptool: {what}", time.monotonic() - start, child_cpu() - used, bench.sent() - before, least))
    return rows


def peer_rows(peer: Path, bench: Boards, link: str, baud: int, least_s: float) -> list[Row]:
    """Run sessions of pytest-embedded; over RFC 2217, where a flash takes a minute, one with one test."""
    slot = bench.slots[0]
    [first, *same], sent = peer_sessions(peer, bench, slot, link, baud, "aa" if link == "local" else "a")
    rows = [Row(f"{PEER}: full", first, sent=sent, least_s=least_s)]
    if link == "local":
        rows.append(Row(f"{PEER}: same session", same[0]))
        times, sent = peer_sessions(peer, bench, slot, link, baud, "abab")
        rows.append(Row(f"{PEER}: new session, same", times[0]))
        rows += [Row(f"{PEER}: a b a b: {name}", seconds) for name, seconds in zip("bab", times[1:], strict=True)]
        rows[-1].what += " (sent: all four)"
        rows[-1].sent = sent
    return rows


def many_slots(counts: Sequence[int], link: str, baud: int, *, esptool: bool) -> None:
    """Print how the time of a full write grows with the number of boards."""
    images = firmware("a").images
    names = ["hut flash all", "a session each"] + (["esptool each"] if esptool else [])
    rows = []
    for name in names:
        first_s: float | None = None
        for count in counts:
            with boards(count) as bench:
                used, start = child_cpu(), time.monotonic()
                if name == names[0]:
                    running = [bench.hut_flash(link, baud, build_folder(bench.folder, "a"))]
                elif name == names[1]:
                    running = [bench.session(slot, link, baud, [("a", "auto")]) for slot in bench.slots]
                else:
                    running = [bench.esptool(slot, link, baud, images) for slot in bench.slots]
                for process in running:
                    ended(process)
                wall_s, cpu_s = time.monotonic() - start, child_cpu() - used
                row = Row(f"{name}, {count} slots", wall_s, cpu_s, bench.sent(), wire_seconds(images, baud))
            if first_s is None and count == 1:
                first_s = wall_s
            elif first_s is not None and not name.startswith("esptool"):
                row.goal_s = MANY_FACTOR * first_s
            rows.append(row)
    show(f"full write on many slots, {link}, {baud} baud (whole commands; goal: {MANY_FACTOR:g} x one slot)", rows)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bauds", default="921600,2000000")
    parser.add_argument("--links", default="local,rfc2217")
    parser.add_argument("--slots", default="1,8,16,32", help="numbers of slots that are flashed at once; '' for none")
    parser.add_argument("--only-many", action="store_true", help="leave out what one slot does")
    parser.add_argument("--no-esptool-on-many", action="store_true")
    parser.add_argument("--peer", metavar="PYTHON", type=Path, help=f"an interpreter that has {PEER} {PEER_VERSION}")
    options = parser.parse_args()
    bauds = [int(word) for word in options.bauds.split(",") if word]
    links = [word for word in options.links.split(",") if word]
    counts = [int(word) for word in options.slots.split(",") if word]
    # As the package is where it was installed: compiled. Else each process would do that first.
    compileall.compile_dir(Path(pytest_hut.__file__).parent, quiet=2)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before the first measurement")
    if options.peer is None and not options.only_many:
        packages = f"pytest-embedded-serial-esp=={PEER_VERSION} pytest-embedded-idf=={PEER_VERSION}"
        print(f"{PEER} is left out: give --peer the interpreter of an environment with {packages}")
    local: dict[tuple[int, str], float] = {}
    for baud in () if options.only_many else bauds:
        for link in links:
            one_slot(link, baud, options.peer, local)
    for baud in bauds if counts else ():
        for link in links:
            many_slots(counts, link, baud, esptool=link == "local" and not options.no_esptool_on_many)


if __name__ == "__main__":
    main()
