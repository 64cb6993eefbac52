"""ESP images: reading, writing, the demo set, and what damaged ones are said to be."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware.chips import MMU_PAGE
from pytest_hut.firmware.console_script import embed_script, find_script, parse_script
from pytest_hut.firmware.demo import DEMO_PARTITIONS, DEMO_SCRIPT, DemoApp, DemoBootloader, demo_firmware
from pytest_hut.firmware.descriptors import APP_DESCRIPTOR_SIZE, AppDescription, BootloaderDescription
from pytest_hut.firmware.image import CHECKSUM_SEED, parse_image, xor_checksum
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.writer import SpiSettings, write_image

APP = AppDescription("1.2-3", "thing", "21:00:11", "Dec 26 2025", "v4.3.5-dirty", "ab" * 32)
DROM, IROM, DRAM = 0x3F400020, 0x400D0020, 0x3FFBDB60
CHIPS = ("esp32", "esp32s3", "esp32c3", "esp32c6")


def small_app(**changes: object) -> bytes:
    segments = [(DROM, b"rodata" * 20), (DRAM, b"data" * 10), (IROM, b"code" * 50)]
    return write_image(segments, "esp32", 0x40081234, app=APP, min_chip_revision=(1, 0), **changes)  # type: ignore[arg-type]


def content(images: ImageSet, name: str) -> bytes:
    return next(image.data for image in images.images if image.name == name)


def test_what_was_written_is_read_back() -> None:
    data = small_app(max_chip_revision=(3, 99), spi=SpiSettings("dout", 0x0, 16))
    image = parse_image(data + b"\xff" * 100)
    assert (image.chip, image.size, image.app) == ("esp32", len(data), APP)
    assert image.min_chip_revision == (1, 0)
    assert image.header.entry == 0x40081234
    assert image.header.max_revision_full == 399
    assert image.header.flash_size == 16 * 1024 * 1024
    assert (image.header.spi_mode, image.header.spi_freq) == (3, 0)
    assert image.sha256 == data[-32:].hex() == hashlib.sha256(data[:-32]).hexdigest()
    rodata = image.segments[0]
    assert data[rodata.offset + APP_DESCRIPTOR_SIZE :].startswith(b"rodata" * 20)


def test_an_image_without_hash_has_none() -> None:
    image = parse_image(small_app(append_hash=False))
    assert image.sha256 is None
    assert image.app == APP


def test_gaps_before_mapped_segments_are_filled_with_ram_segments_then_padding() -> None:
    segments = [(DROM, bytes(0x1000)), (IROM, bytes(0x100)), (DRAM, b"x" * 0x400), (0x40080000, b"y" * 0x20000)]
    image = parse_image(write_image(segments, "esp32", 0x40080000))
    kinds = [(segment.address, segment.mapped) for segment in image.segments]
    split = image.segments[2].size
    assert kinds == [(DROM, True), (DRAM, False), (0x40080000, False), (IROM, True), (0x40080000 + split, False)]
    for segment in image.segments:
        if segment.mapped:
            assert segment.offset % MMU_PAGE == segment.address % MMU_PAGE
    padded = parse_image(write_image(segments[:2], "esp32", 0x40080000))
    assert [(segment.address, segment.mapped) for segment in padded.segments] == [
        (DROM, True),
        (0, False),
        (IROM, True),
    ]


def test_a_gap_too_small_for_a_segment_header_takes_another_page() -> None:
    four_bytes_short = MMU_PAGE - 12
    segments = [(0x3C010020, bytes(four_bytes_short)), (0x42000020, b"code")]
    image = parse_image(write_image(segments, "esp32s3", 0))
    assert [segment.mapped for segment in image.segments] == [True, False, True]
    assert image.segments[2].offset == 2 * MMU_PAGE + 0x20


@given(st.binary(max_size=300), st.integers(0, 255))
def test_checksum_is_the_xor_of_all_bytes(data: bytes, seed: int) -> None:
    expected = seed
    for byte in data:
        expected ^= byte
    assert xor_checksum(data, seed) == expected


def damage(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (small_app()[:23], "cut short"),
        (small_app()[:30], "ends before segment 0"),
        (small_app()[:100], "bytes of segment 0 are missing"),
        (small_app()[:-33], "checksum is missing"),
        (small_app()[:-1], "SHA-256 is missing"),
        (damage(small_app(), 0, 0xEA), "no ESP image"),
        (damage(small_app(), 1, 17), "17 segments"),
        (damage(small_app(), 12, 99), "unknown id 99"),
        (damage(small_app(), 23, 2), "hash flag"),
        (damage(small_app(), 31, 0xFF), "impossible length"),
        (damage(small_app(), 400, 0x55), "checksum should be"),
        (damage(small_app(), len(small_app()) - 1, small_app()[-1] ^ 1), "SHA-256 does not match"),
        (b"\xff" * 4096, "no ESP image"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(FirmwareError, match=reason):
        parse_image(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parsing_anything_raises_nothing_but_firmware_errors(data: st.DataObject) -> None:
    original = small_app()
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    blob = data.draw(st.sampled_from([bytes(mutated), data.draw(st.binary(max_size=200))]))
    try:
        image = parse_image(blob[: data.draw(st.integers(0, len(blob)))])
    except FirmwareError as error:
        assert str(error).endswith(".")
    else:
        assert image.size <= len(original)


def test_a_bootloader_with_descriptor_and_one_with_strings_are_recognised() -> None:
    old = parse_image(content(demo_firmware(bootloader=DemoBootloader("v4.3.5-dirty", "20:59:08")), "bootloader"))
    assert old.bootloader == BootloaderDescription("v4.3.5-dirty", "20:59:08", quad_io=True)
    plain = DemoBootloader("v5.3.2", "Jan  1 2026 00:00:00", quad_io=False)
    new = parse_image(content(demo_firmware(bootloader=plain), "bootloader"))
    assert new.bootloader == BootloaderDescription("v5.3.2", "Jan  1 2026 00:00:00", quad_io=False)
    assert old.app is None


def test_a_compile_time_in_a_string_of_its_own_is_found() -> None:
    strings = b"x\0v5.1\0I (%u) %s: ESP-IDF %s 2nd stage bootloader\0compile time %s\0Feb 12 2024 10:00:00\0"
    image = parse_image(write_image([(0x3FFF0030, strings)], "esp32", 0))
    assert image.bootloader == BootloaderDescription("v5.1", "Feb 12 2024 10:00:00", quad_io=False)


def test_texts_that_do_not_fit_the_descriptor_are_refused() -> None:
    with pytest.raises(FirmwareError, match="does not fit"):
        AppDescription("v" * 32, "p", "t", "d", "i", "00" * 32).pack()
    with pytest.raises(FirmwareError, match="no SHA-256"):
        AppDescription("v", "p", "t", "d", "i", "12").pack()


@pytest.mark.parametrize("chip", CHIPS)
def test_demo_images_are_whole_and_lie_in_their_partitions(chip: str) -> None:
    images = demo_firmware(chip)
    rooms = {partition.offset: partition.size for partition in DEMO_PARTITIONS}
    kinds = {}
    for name in ("bootloader", "recovery", "ota_0"):
        image = parse_image(content(images, name))
        assert image.chip == chip
        kinds[name] = ["map" if segment.mapped else "load" for segment in image.segments]
    assert kinds == {
        "bootloader": ["load"] * 3,
        "recovery": ["map", "load", "load", "map", "load", "load"],
        "ota_0": ["map", "load", "map", "load", "load", "load"],
    }
    assert content(images, "bootloader")[0] == 0xE9
    assert images.images[0].offset == (0x1000 if chip == "esp32" else 0)
    for image in images.images[2:]:
        assert len(image.data) <= rooms[image.offset]
    ends = [image.end for image in images.images]
    assert all(end <= image.offset for end, image in zip(ends, images.images[1:], strict=False))


def test_demo_apps_share_the_version_but_not_the_elf_hash() -> None:
    images = demo_firmware(version="7.8")
    recovery, ota_0 = (parse_image(content(images, name)).app for name in ("recovery", "ota_0"))
    assert recovery is not None
    assert ota_0 is not None
    assert recovery.version == ota_0.version == "7.8"
    assert recovery.elf_sha256 != ota_0.elf_sha256
    assert "0" * 64 not in (recovery.elf_sha256, ota_0.elf_sha256)


def test_demo_is_deterministic_differs_by_argument_and_compresses_like_firmware() -> None:
    first = demo_firmware()
    fresh = subprocess.run(
        [sys.executable, "-c", "from pytest_hut.firmware.demo import *; print(demo_firmware().content_sha256)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert first.content_sha256 == fresh
    assert first.content_sha256 != demo_firmware(version="other").content_sha256
    app = content(first, "ota_0")
    assert 0.25 < len(zlib.compress(app)) / len(app) < 0.30
    assert 2_300_000 < len(app) < 2_600_000


def test_demo_variants() -> None:
    own = {"boot": ["only here"]}
    images = demo_firmware(
        recovery=DemoApp(version="a", elf_sha256="cd" * 32, min_chip_revision=(1, 0), date="Feb  2 2026", script=own),
        ota_0=DemoApp(idf_version="v5.2", project_name="other"),
    )
    image = parse_image(content(images, "recovery"))
    assert image.app is not None
    assert (image.app.version, image.app.elf_sha256, image.app.date) == ("a", "cd" * 32, "Feb  2 2026")
    assert image.min_chip_revision == (1, 0)
    assert find_script(content(images, "recovery")[image.segments[0].offset + 256 :]) == parse_script(own)
    other = parse_image(content(images, "ota_0")).app
    assert other is not None
    assert (other.idf_version, other.project_name) == ("v5.2", "other")
    with pytest.raises(FirmwareError, match="no demo firmware"):
        demo_firmware("esp8266")


@pytest.mark.parametrize("chip", CHIPS)
def test_esptool_finds_the_images_valid(chip: str, tmp_path: Path) -> None:
    from esptool.bin_image import LoadFirmwareImage

    for name in ("bootloader", "recovery"):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(content(demo_firmware(chip), name))
        image = LoadFirmwareImage(chip, str(path))
        assert image.checksum == image.calculate_checksum()
        assert image.stored_digest == image.calc_digest
        assert image.chip_id == image.ROM_LOADER.IMAGE_CHIP_ID


def test_a_script_survives_the_image() -> None:
    assert find_script(embed_script(DEMO_SCRIPT) + b"filler") == parse_script(DEMO_SCRIPT)
    assert find_script(b"something else entirely") is None
    assert find_script(b"") is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"boots": []}, "unknown key 'boots'"),
        ({"boot": "line"}, "boot is not a list"),
        ({"boot": [{"panic": "boredom"}]}, "panic: 'boredom'"),
        ({"boot": [{"print": "a", "log": "b"}]}, "exactly one key"),
        ({"boot": [{"log": "no level"}]}, "log: 'no level'"),
        ({"boot": [{"delay": -1}]}, "not a number of seconds"),
        ({"commands": {"x": [{"flood": True}]}}, "command 'x'"),
        ({"commands": []}, "commands is not an object"),
        ({"timers": [{"after_s": 1}]}, "after_s and do"),
        ({"prompt": 3}, "prompt"),
        ({"psram": "much"}, "required, optional"),
        ([], "the script is not an object"),
    ],
)
def test_bad_scripts_are_refused_with_the_place(script: object, reason: str) -> None:
    with pytest.raises(FirmwareError, match=reason):
        parse_script(script)


@given(st.binary(max_size=80) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_scripts_from_flash_raise_nothing_but_firmware_errors(blob: bytes | str) -> None:
    text = blob.encode() if isinstance(blob, str) else blob
    marked = b"hut-console-json" + len(text).to_bytes(4, "little") + text
    for candidate in (marked, marked[:-1], text):
        try:
            find_script(candidate)
        except FirmwareError as error:
            assert "console script" in str(error)


def test_checksum_seed_is_the_documented_one() -> None:
    assert xor_checksum(b"") == CHECKSUM_SEED == 0xEF
