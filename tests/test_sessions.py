"""Whole sessions on virtual slots, as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import HW_BOOT_001, Lab

from pytest_hut.board.slot import HutSlot
from pytest_hut.lease.lockfile import LockFile

HOLDS_SLOT = """
import pathlib, time

def test_holds(hut_slot):
    pathlib.Path("held-" + hut_slot.id).touch()
    hut_slot.console.expect("never printed", timeout=60)
"""


def wait_for(process: subprocess.Popen[str], *paths: Path) -> None:
    """Wait until files appear, as long as the process that will make them lives."""
    from inotify_simple import INotify, flags

    with INotify() as watcher:
        for path in paths:
            watcher.add_watch(path.parent, flags.CREATE | flags.MOVED_TO)
        while not all(path.exists() for path in paths):
            assert process.poll() is None, process.communicate()[0]
            watcher.read(timeout=500)


def relay_state(lab: Lab, slot_id: str) -> str:
    return (lab.home / ".local/state/hut/virtual" / slot_id / "power").read_text().strip()


def test_the_main_job_on_two_slots(lab: Lab) -> None:
    lab.write_slots("hut-01", "hut-02")
    lab.preload("hut-01")
    lab.preload("hut-02")

    session = lab.run("-n", "2", "--hut-report=out/report.json", str(HW_BOOT_001))

    assert session.exit_code == 0, session.output
    report = session.report
    assert (report.status, report.exit_code, report.lane) == ("success", 0, "local-hil")
    assert {(test.slot, test.hw_id, test.outcome) for test in report.tests} == {
        ("hut-01", "HW-BOOT-001", "passed"),
        ("hut-02", "HW-BOOT-001", "passed"),
    }
    assert [(slot.slot, slot.power_cycles, slot.boots) for slot in report.slots] == [("hut-01", 1, 1), ("hut-02", 1, 1)]
    assert len({slot.mac for slot in report.slots}) == 2
    for test in report.tests:
        [evidence] = test.evidence
        assert b"Loaded app from partition" in (lab.folder / evidence).read_bytes()
    assert (lab.folder / "out" / "report.json").exists()
    assert "out/report.json" in session.output


def test_blank_boards_are_flashed_once_and_then_proved(lab: Lab) -> None:
    lab.write_slots("hut-01")

    first, second = lab.run(str(HW_BOOT_001)), lab.run(str(HW_BOOT_001))

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    flashes = [event for event in lab.events("hut-01") if event["event"] == "FlashFinished"]
    assert [flash["written"] for flash in flashes] == [True, False]
    assert flashes[0]["bytes_written"] > 3_000_000
    assert flashes[1]["proof"] == "MD5 computed by the chip"


def test_within_a_session_the_boot_banner_is_proof_enough(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(
        "def test_one(hut_slot, flashed_firmware): hut_slot.boot()\n"
        "def test_two(hut_slot, flashed_firmware): hut_slot.boot()\n"
    )

    assert lab.run().exit_code == 0

    proofs = [event["proof"] for event in lab.events("hut-01") if event["event"] == "FlashFinished"]
    assert proofs == ["MD5 computed by the chip", "ELF SHA-256 in the boot banner"]


def test_without_slots_hardware_tests_are_skipped_and_the_run_is_green(lab: Lab) -> None:
    lab.write_test("def test_plain(): pass")

    session = lab.run("-rs", str(HW_BOOT_001), "test_it.py", slots=[])

    assert session.exit_code == 0
    assert "1 passed, 1 skipped" in session.output
    assert "--hut-slots=hut-01" in session.output
    assert not (lab.folder / "build").exists()


def test_needs_that_a_slot_does_not_meet(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test(
        "import pytest\n"
        "@pytest.mark.hut(chip='esp32c3')\ndef test_chip(hut_slot): pass\n"
        "@pytest.mark.hut(features=['ethernet', 'psram'])\ndef test_features(hut_slot): pass\n"
        "@pytest.mark.hut(chip='esp32', features=['psram'])\ndef test_fits(hut_slot): pass\n"
    )

    session = lab.run("-rs")

    outcomes = {test.node_id.split("::")[1]: (test.outcome, test.message) for test in session.report.tests}
    assert outcomes["test_chip"] == ("skipped", "no slot for it: needs chip esp32c3, but hut-01 has esp32")
    assert outcomes["test_features"] == ("skipped", "no slot for it: needs ethernet, which hut-01 does not have")
    assert outcomes["test_fits"] == ("passed", "")


def test_console_and_relay_in_a_test(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(
        """
import pexpect, pytest
from pytest_hut import ExpectTimeout, FirmwareCrash

def test_console(hut_slot):
    boot = hut_slot.boot()
    assert boot.partition == "recovery"
    hut_slot.console.expect_exact("demo ready")
    hut_slot.console.send("ping")
    assert hut_slot.console.expect(["no such thing", r"p(on)g"]) == 1
    assert hut_slot.console.match[1] == "on"
    assert hut_slot.console.expect([pexpect.TIMEOUT, "never"], timeout=0.1) == 0
    with pytest.raises(ExpectTimeout, match="never"):
        hut_slot.console.expect("never", timeout=0.1)
    hut_slot.console.send("panic")
    with pytest.raises(FirmwareCrash, match="abort"):
        hut_slot.console.expect("never")

def test_what_came_before_does_not_count(hut_slot):
    with pytest.raises(ExpectTimeout):
        hut_slot.console.expect("abort", timeout=0.2)

def test_a_provoked_panic(hut_slot):
    hut_slot.boot()
    hut_slot.console.send("panic guru")
    with hut_slot.console.tolerating_faults():
        hut_slot.console.expect("Guru Meditation Error")
        assert hut_slot.expect_boot().reset_reason == "SW_CPU_RESET"

def test_relay(hut_slot, power_relay):
    assert power_relay.state() == "on"
    off = power_relay.off()
    assert (off.status, off.last_state) == ("ok", "off")
    assert power_relay.state() == "off"
    assert power_relay.on().ok
    result = power_relay.cycle(off_s=0.1, on_s=0.1)
    assert (result.status, result.entity, result.off_s) == ("ok", "switch.hut_01_power", 0.1)
"""
    )

    session = lab.run()

    assert session.exit_code == 0, session.output
    assert session.report.slots[0].crashes == 2


def test_power_comes_back_when_a_test_leaves_it_off(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("def test_off(power_relay): assert power_relay.off().ok")

    session = lab.run()

    assert session.exit_code == 0, session.output
    assert relay_state(lab, "hut-01") == "on"
    [recovery] = session.report.slots[0].recovery_events
    assert recovery.what == "power restored"


def test_a_bus_powered_adapter_goes_and_comes_back(lab: Lab) -> None:
    lab.write_slots("hut-01", extra='adapter = "bus-powered"')
    lab.preload("hut-01")

    session = lab.run(str(HW_BOOT_001))

    assert session.exit_code == 0, session.output
    kinds = [event["event"] for event in lab.events("hut-01")]
    assert kinds.index("PortLost") < kinds.index("PowerCycled")
    assert "PortReturned" in kinds


def test_a_lock_held_by_a_shell_delays_the_session(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("def test_it(hut_slot): pass")
    holder = subprocess.Popen(
        ["flock", str(lab.lock("hut-01")), "sh", "-c", "echo held; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    session = lab.start("-s")
    assert session.stdout is not None
    told = next(line for line in session.stdout if "waiting for" in line)
    holder.communicate("\n")
    rest = session.communicate(timeout=60)[0]

    assert f"pid {holder.pid}" in told and "flock" in told
    assert session.returncode == 0, rest
    assert lab.reports()[-1].slots[0].lock_waited_sec > 0


def test_two_sessions_take_turns_at_a_slot(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(HOLDS_SLOT)
    first = lab.start()
    wait_for(first, lab.folder / "held-hut-01")
    second = lab.start("-s", "--hut-job-id=SECOND", str(HW_BOOT_001))
    assert second.stdout is not None
    told = next(line for line in second.stdout if "waiting for" in line)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    rest = second.communicate(timeout=60)[0]

    assert f"pid {first.pid}" in told
    assert second.returncode == 0, rest
    assert {report.job_id for report in lab.reports()} > {"SECOND"}


def test_a_slot_that_stays_busy_is_infrastructure(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test("def test_it(hut_slot): pass")
    with LockFile(lab.lock("hut-01"), "OTHER-JOB").acquire(1):
        session = lab.run("--hut-lock-timeout=0.2")

    assert session.exit_code == 10
    [test] = session.report.tests
    assert (test.outcome, test.kind) == ("error", "infrastructure")
    assert "OTHER-JOB" in test.message and f"pid {os.getpid()}" in test.message
    assert "Traceback" not in session.output


def test_a_session_holds_the_lock_and_the_shell_has_to_wait(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.preload("hut-01")
    lab.write_test(HOLDS_SLOT)
    session = lab.start()
    wait_for(session, lab.folder / "held-hut-01")

    assert subprocess.run(["flock", "-n", str(lab.lock("hut-01")), "true"], check=False).returncode == 1
    session.send_signal(signal.SIGTERM)
    subprocess.run(["flock", "-w", "30", str(lab.lock("hut-01")), "true"], check=True)
    session.communicate(timeout=60)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_reports_and_restores(lab: Lab, workers: str, number: signal.Signals) -> None:
    lab.write_slots("hut-01", "hut-02")
    for slot_id in lab.slots:
        lab.preload(slot_id)  # A blank board says that it cannot boot, which would end the wait before its time.
    lab.write_test(
        "import pathlib, pytest\n"
        "@pytest.mark.hut_each\n"
        "def test_holds(hut_slot, power_relay):\n"
        "    power_relay.off()\n"
        "    pathlib.Path('off-' + hut_slot.id).touch()\n"
        "    hut_slot.console.expect('never printed', timeout=60)\n"
    )
    session = lab.start("-n", workers)
    wait_for(session, *(lab.folder / f"off-{slot}" for slot in (["hut-01"] if workers == "0" else lab.slots)))

    session.send_signal(number)
    output = session.communicate(timeout=60)[0]

    [report] = lab.reports()
    assert report.status == "cancelled", output
    assert report.human_summary.startswith("Ended early")
    _, _, running = report.human_summary.partition("no test ended, while ")
    assert "test_it.py::test_holds[hut-01]" in running
    assert session.returncode == pytest.ExitCode.INTERRUPTED
    for slot_id in ["hut-01"] if workers == "0" else lab.slots:
        assert relay_state(lab, slot_id) == "on"
        assert LockFile(lab.lock(slot_id)).holder() is None


def test_a_killed_worker_frees_its_slot_and_the_report_appears(lab: Lab) -> None:
    lab.write_slots("hut-01", "hut-02")
    lab.write_test(
        "import os, pathlib, signal, pytest\n"
        "@pytest.mark.hut_each\n"
        "def test_dies(hut_slot, power_relay):\n"
        "    if hut_slot.id == 'hut-01':\n"
        "        power_relay.off()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "@pytest.mark.hut_each\n"
        "def test_after(hut_slot, power_relay):\n"
        "    assert power_relay.state() == 'on'\n"
    )

    session = lab.run("-n", "2")

    assert session.exit_code == 10, session.output
    outcomes = sorted((test.node_id.split("::")[1], test.slot, test.outcome) for test in session.report.tests)
    assert outcomes == [
        ("test_after[hut-01]", "hut-01", "passed"),
        ("test_after[hut-02]", "hut-02", "passed"),
        ("test_dies[hut-01]", "hut-01", "crashed"),
        ("test_dies[hut-02]", "hut-02", "passed"),
    ]
    first = session.report.slots[0]
    assert [event.what for event in first.recovery_events] == ["power restored"]
    assert relay_state(lab, "hut-01") == "on"


def test_a_session_killed_with_power_off_is_made_good_by_the_next(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test(
        "import os, signal\n"
        "def test_dies(power_relay):\n"
        "    power_relay.off()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert lab.run().exit_code == -signal.SIGKILL
    assert relay_state(lab, "hut-01") == "off"
    lab.write_test("def test_it(power_relay): assert power_relay.state() == 'on'")

    session = lab.run()

    assert session.exit_code == 0, session.output
    assert "an earlier holder ended" in session.report.slots[0].recovery_events[0].reason


def test_virtual_boards_that_cannot_start_are_in_the_report(lab: Lab) -> None:
    lab.write_slots("hut-01", board='flash_size = "8MB"')
    lab.preload("hut-01")

    session = lab.run()

    assert session.exit_code == 10, session.output
    assert "Traceback" not in session.output
    assert session.report.status == "failed"
    assert "flash.bin" in session.report.human_summary


def test_infrastructure_and_product_failures_are_told_apart(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test(
        "from pytest_hut import FirmwareCrash, PortError\n"
        "def test_product(hut_slot): raise FirmwareCrash('it panicked')\n"
        "def test_bench(hut_slot): raise PortError('it is unplugged')\n"
        "def test_assertion(hut_slot): assert 1 == 2\n"
    )

    session = lab.run("-v")

    kinds = [(test.node_id.split("::")[1], test.kind) for test in session.report.tests]
    assert kinds == [("test_product", "product"), ("test_bench", "infrastructure"), ("test_assertion", "product")]
    assert session.exit_code == 1
    assert re.search(r"test_bench INFRASTRUCTURE ERROR", session.output)


def test_secrets_are_in_no_file_and_no_output(lab: Lab) -> None:
    lab.write_slots("hut-01")
    lab.write_test(
        "import pathlib\n"
        "def test_it(hut_slot, power_relay):\n"
        "    power_relay.cycle(off_s=0)\n"
        "    secret = hut_slot.config.relay.server.credentials.read_text().partition('=')[2].strip()\n"
        "    pathlib.Path('../secret-of-' + pathlib.Path.cwd().name).write_text(secret)\n"
        "    assert False, 'show everything'\n"
    )

    session = lab.run("-vv", "--showlocals", "-rA", "-o", "log_level=DEBUG")

    secret = (lab.folder.parent / f"secret-of-{lab.folder.name}").read_text()
    assert len(secret) > 20
    # The test's own local variable shows it, which only the test's author could hide.
    output = "\n".join(line for line in session.output.splitlines() if not line.startswith("secret"))
    assert secret not in output
    for path in (lab.folder / "build").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_loading_the_plugin_costs_nothing_heavy() -> None:
    script = (
        "import sys; import pytest_hut.pytest_plugin;"
        "heavy = {'esptool', 'pydantic', 'requests', 'rich', 'serial', 'pexpect', 'filelock', 'junitparser'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    import pytest_hut

    assert pytest_hut.HutSlot is HutSlot
    for name in pytest_hut.__all__:
        assert getattr(pytest_hut, name).__name__ == name
