"""HW-BOOT-001 on boards that are not well: each fails soon after the evidence, and names the cause."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from lab import HW_BOOT_001, Lab

from pytest_hut.firmware.demo import demo_firmware
from pytest_hut.firmware.partitions import Partition, build_partition_table

INNER_TEST = """
import importlib.util
import pathlib
import time

import pytest
import requests

spec = importlib.util.spec_from_file_location("hw_boot_001", {hw_boot!r})
hw_boot_001 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hw_boot_001)

FLASH = pathlib.Path({flash!r})
DAMAGE = {damage!r}
EVIDENCE = {evidence!r}
FAULTS = {faults!r}


@pytest.fixture
def flashed_firmware(flashed_firmware, hut_slot):
    with FLASH.open("r+b") as file:
        for offset, data in DAMAGE:
            file.seek(offset)
            file.write(data)
    if FAULTS:
        server = hut_slot.config.relay.server
        token = server.credentials.read_text().partition("=")[2].strip()
        answer = requests.post(
            server.url + "/api/virtual/hut-01/faults", json=FAULTS, headers={{"Authorization": "Bearer " + token}}
        )
        assert answer.status_code == 200, answer.text
    return flashed_firmware


def arrived(log):
    raw = log.read_bytes()
    at = raw.rindex(EVIDENCE)
    stamps = [line.split() for line in log.with_suffix(".times").read_text().splitlines()]
    return min(float(when) for offset, when in stamps if int(offset) >= at - 1) if any(
        int(offset) >= at for offset, _ in stamps) else float(stamps[-1][1])


@pytest.mark.hw_test("HW-BOOT-001")
def test_boot(hut_slot, flashed_firmware):
    start = time.monotonic()
    try:
        hw_boot_001.test_boots_the_firmware_we_flashed(hut_slot, flashed_firmware)
    except BaseException:
        now = time.monotonic()
        since = arrived(hut_slot.console.log_path) if EVIDENCE else start + 0.5
        print(f"VERDICT {{now - since:.3f}} s after the evidence")
        raise
"""


@dataclass
class Case:
    """What is wrong with a board, what its wire shows of it, and what the verdict has to say."""

    says: str
    evidence: bytes
    damage: tuple[tuple[int, bytes], ...] = ()
    kind: str = "product"
    faults: dict[str, object] | None = None
    script: dict[str, object] | None = None


def flipped(offset: int) -> bytes:
    image = next(i for i in demo_firmware("esp32").images if i.offset <= offset < i.end)
    return bytes([image.data[offset - image.offset] ^ 0xFF])


WRONG_TABLE = build_partition_table(
    [
        Partition("nvs", 1, 2, 0x9000, 0x4000),
        Partition("factory", 0, 0, 0x20000, 0x100000),
    ]
).ljust(0xC00, b"\xff")

CASES = {
    "blank flash": Case(
        says="flash is blank", evidence=b"invalid header: 0xffffffff", damage=((0, b"\xff" * (4 << 20)),)
    ),
    "both apps corrupt": Case(
        says="No bootable app partitions",
        evidence=b"No bootable app partitions",
        damage=((0x90000, flipped(0x90000)), (0x200000, flipped(0x200000))),
    ),
    "factory app corrupt": Case(
        says="booted another partition", evidence=b"ELF file SHA256", damage=((0x90000, flipped(0x90000)),)
    ),
    "wrong partition table": Case(
        says="No bootable app partitions", evidence=b"No bootable app partitions", damage=((0x8000, WRONG_TABLE),)
    ),
    "panic": Case(
        says="abort() was called",
        evidence=b"abort() was called",
        script={"boot": ["starting"], "timers": [{"after_s": 0.1, "do": [{"panic": "abort"}]}]},
    ),
    "exception": Case(
        says="Guru Meditation Error",
        evidence=b"Guru Meditation Error",
        script={"boot": ["starting"], "timers": [{"after_s": 0.1, "do": [{"panic": "StoreProhibited"}]}]},
    ),
    "boot loop": Case(
        says="restarted by itself",
        evidence=b"rst:",
        script={"boot": ["starting"], "timers": [{"after_s": 0.05, "do": [{"restart": True}]}]},
    ),
    "silent board": Case(says="stayed silent", evidence=b"", faults={"silent": True}, kind="infrastructure"),
    "vanishing port": Case(
        says="went away",
        evidence=b"",
        faults={"vanish_after_s": 0.3, "vanish_for_s": 30},
        kind="infrastructure",
    ),
    "brown-out": Case(says="rown", evidence=b"Brownout detector was triggered", faults={"brownout_after_s": 0.2}),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict_names_the_cause_within_two_seconds(lab: Lab, name: str) -> None:
    case = CASES[name]
    firmware = demo_firmware("esp32", script=case.script) if case.script else demo_firmware("esp32")
    lab.preload("hut-01", firmware)
    lab.write_slots("hut-01")
    lab.write_test(
        INNER_TEST.format(
            hw_boot=str(HW_BOOT_001),
            flash=str(lab.flash_file("hut-01")),
            damage=case.damage,
            evidence=case.evidence,
            faults=case.faults,
        )
    )

    session = lab.run("-rA", f"--hut-firmware={lab.save_firmware(firmware)}", "test_it.py")

    [test] = session.report.tests
    assert (test.outcome, test.kind) == ("failed", case.kind), session.output
    assert case.says in test.message, test.message
    assert case.says in session.report.human_summary
    verdict = next(line for line in session.output.splitlines() if line.startswith("VERDICT"))
    assert float(verdict.split()[1]) < 2.0
    assert session.exit_code == (10 if case.kind == "infrastructure" else 1)
