"""HW-BOOT-001: the board boots the firmware we flashed.

The example to copy. It runs unchanged on a real board and on a virtual one:

    pytest hil_tests --hut-slots=hut-01,hut-02 -n 2
    pytest hil_tests --hut-slots=hut-01,hut-02 -n 2 --hut-virtual
"""

from __future__ import annotations

import pytest

from pytest_hut import Firmware, HutSlot

BOOT_LIMIT_S = 10.0
"""From power on to the application's banner; the product's own limit is far below."""

STAYS_UP_S = 1.0
"""How long the application has to run without a crash or a restart."""


@pytest.mark.hw_test("HW-BOOT-001")
@pytest.mark.hut_each
def test_boots_the_firmware_we_flashed(hut_slot: HutSlot, flashed_firmware: Firmware) -> None:
    boot = hut_slot.cold_boot(timeout=BOOT_LIMIT_S)

    assert boot.reset_reason in ("POWERON_RESET", "POWERON"), "the board came up for another reason than power"
    expected = flashed_firmware.identity
    # The version alone proves little: a damaged application makes the bootloader start another one, silently, that
    # can carry the same version. The partition and the hash of the ELF file tell them apart.
    assert boot.partition == expected.boot_partition, f"booted another partition: {boot.rejected}"
    assert boot.app_version == expected.version
    assert boot.elf_sha256, "the application did not print the hash of its ELF file"
    assert (expected.elf_sha256 or "").startswith(boot.elf_sha256), (
        "the application that runs is not the one we flashed"
    )

    hut_slot.console.expect_to_stay_up(STAYS_UP_S)
