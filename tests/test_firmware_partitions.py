"""Partition tables and OTA data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.demo import DEMO_PARTITIONS
from pytest_hut.firmware.partitions import (
    ENTRY_SIZE,
    SECTOR,
    TABLE_SIZE,
    OtaState,
    Partition,
    build_otadata,
    build_partition_table,
    ota_entries,
    parse_partition_table,
    select_ota_slot,
)

FLASH_SIZE = 4 * 1024 * 1024
TABLE = build_partition_table(DEMO_PARTITIONS)


def test_a_table_is_read_back_as_it_was_built() -> None:
    assert len(TABLE) == TABLE_SIZE
    assert parse_partition_table(TABLE, FLASH_SIZE) == DEMO_PARTITIONS


def test_the_md5_is_that_of_the_products_table() -> None:
    """The layout is the product's, so the entry must be the one its release carries."""
    entry = TABLE[len(DEMO_PARTITIONS) * ENTRY_SIZE :][:ENTRY_SIZE]
    assert entry.hex() == "ebeb" + "ff" * 14 + "f7798123eff25465542a1a30787ded4f"


@pytest.mark.parametrize(
    ("kind", "subtype", "usage"),
    [
        (0, 0x00, "factory app"),
        (0, 0x10, "OTA app"),
        (0, 0x1F, "OTA app"),
        (0, 0x20, "test app"),
        (0, 0x33, "Unknown app"),
        (1, 0x00, "OTA data"),
        (1, 0x01, "RF data"),
        (1, 0x02, "WiFi data"),
        (1, 0x04, "NVS keys"),
        (1, 0x05, "efuse"),
        (1, 0x82, "Unknown data"),
        (0x40, 0x00, "unknown"),
    ],
)
def test_usage_is_the_bootloaders_word(kind: int, subtype: int, usage: str) -> None:
    assert Partition("x", kind, subtype, 0, 0).usage == usage


def with_byte(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


MD5_AT = len(DEMO_PARTITIONS) * ENTRY_SIZE


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (with_byte(TABLE, MD5_AT + 20, 0), "Incorrect MD5 checksum"),
        (with_byte(TABLE, 12, 1), "Incorrect MD5 checksum"),
        (with_byte(TABLE, 0, 0x11), "partition 0 invalid magic number 0x5011"),
        (TABLE[: MD5_AT + ENTRY_SIZE] + TABLE[MD5_AT : MD5_AT + ENTRY_SIZE], "Only one MD5"),
        (TABLE[:MD5_AT], "no terminating entry"),
        (b"", "no terminating entry"),
        (
            build_partition_table([Partition("big", 0, 0, 0x150000, 0x500000)]),
            "partition 0 invalid - offset 0x150000 size 0x500000 exceeds flash chip size 0x400000",
        ),
    ],
)
def test_a_bad_table_is_refused_in_the_bootloaders_words(table: bytes, reason: str) -> None:
    with pytest.raises(FirmwareError, match=reason):
        parse_partition_table(table, FLASH_SIZE)


def test_tables_without_md5_and_erased_flash_are_tables_too() -> None:
    assert parse_partition_table(TABLE[:MD5_AT] + b"\xff" * ENTRY_SIZE) == DEMO_PARTITIONS
    assert parse_partition_table(b"\xff" * TABLE_SIZE) == ()


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(FirmwareError, match="15 bytes"):
        build_partition_table([Partition("much-too-long-a-label", 0, 0, 0, 0)])
    with pytest.raises(FirmwareError, match="95 partitions"):
        build_partition_table([Partition("x", 1, 2, 0, 0)] * 95)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: TABLE[:64] + tail))
def test_parsing_anything_raises_nothing_but_firmware_errors(data: bytes) -> None:
    try:
        partitions = parse_partition_table(data, FLASH_SIZE)
    except FirmwareError:
        return
    assert all(partition.offset + partition.size <= FLASH_SIZE for partition in partitions)


def test_otadata_selects_a_slot() -> None:
    assert select_ota_slot(build_otadata(None), 2) is None
    assert select_ota_slot(build_otadata(0), 2) == 0
    assert select_ota_slot(build_otadata(1), 2) == 1
    assert select_ota_slot(build_otadata(1), 1) == 0
    assert select_ota_slot(build_otadata(1), 0) is None
    assert ota_entries(build_otadata(0))[0].crc == 0x4743989A


def test_the_higher_sequence_of_the_two_sectors_wins() -> None:
    first, second = build_otadata(0)[:SECTOR], build_otadata(3)[:SECTOR]
    assert select_ota_slot(first + second, 4) == 3
    assert select_ota_slot(second + first, 4) == 3


@pytest.mark.parametrize("state", [OtaState.INVALID, OtaState.ABORTED])
def test_a_rejected_application_is_not_selected(state: OtaState) -> None:
    assert select_ota_slot(build_otadata(1, state), 2) is None
    assert ota_entries(build_otadata(1, state))[0].blank


def test_a_wrong_crc_is_neither_blank_nor_valid() -> None:
    entry = ota_entries(with_byte(build_otadata(0), 28, 0))[0]
    assert not entry.blank
    assert not entry.valid


@given(st.binary(max_size=100), st.integers(0, 16))
def test_any_otadata_selects_a_slot_there_is_or_none(data: bytes, count: int) -> None:
    slot = select_ota_slot(data, count)
    assert slot is None or 0 <= slot < count
