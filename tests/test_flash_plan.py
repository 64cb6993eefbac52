"""What is written, and why: plans and comparisons over any contents, on a flash in memory that can lie and break."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.board.flash_memory import FlashMemory, device_stamp
from pytest_hut.board.flash_plan import (
    BLOCK,
    SECTOR,
    Region,
    Span,
    find_differences,
    pieces,
    plan_flash,
    regions_of,
    sector_digests,
    total,
)
from pytest_hut.board.flasher import bring
from pytest_hut.board.progress import Silent
from pytest_hut.errors import FlashError
from pytest_hut.firmware.imageset import FlashImage

FLASH_SIZE = 0x60000


class PowerCut(Exception):
    """The write ended half way."""


class MemoryChip:
    """A flash that erases whole sectors before it writes, as the stub does; lies and power cuts on demand."""

    provable = True

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.lies: list[bool] = []
        """What is wrong with the next MD5 sums."""
        self.cut_after: int | None = None
        self.written = 0
        self.questions = 0

    def holds(self, region: Region, span: Span) -> bool:
        self.questions += 1
        digest = hashlib.md5(self.content[span.start : span.end]).digest()
        if self.lies and self.lies.pop(0):
            digest = b"lie" + digest
        return digest == hashlib.md5(region.content(span)).digest()

    def write(self, region: Region, span: Span, cache: Path | None, progress: Callable[[int, int], None]) -> None:
        data = region.content(span)
        for sector in pieces(span, SECTOR):
            first = sector.start - sector.start % SECTOR
            self.content[first : first + SECTOR] = b"\xff" * SECTOR
            piece = data[sector.start - span.start : sector.end - span.start]
            if self.cut_after is not None and self.written + len(piece) > self.cut_after:
                keep = self.cut_after - self.written
                self.content[sector.start : sector.start + keep] = piece[:keep]
                raise PowerCut
            self.content[sector.start : sector.end] = piece
            self.written += len(piece)


def shows(chip: MemoryChip, images: list[FlashImage]) -> bool:
    return all(bytes(chip.content[image.offset : image.end]) == image.data for image in images)


def flash(chip: MemoryChip, images: list[FlashImage], memory: FlashMemory) -> int:
    """What `flash_images` does, without the wire; returns the bytes written."""
    plan = plan_flash(images, memory.sectors if memory.trusted else None)
    count = 0
    try:
        for region, missing in zip(plan.regions, plan.missing, strict=True):
            count += total(bring(chip, region, missing, memory, None, Silent()))
    except (PowerCut, FlashError):
        memory.distrust()
        raise
    memory.learn({number: text for region in plan.regions for number, text in sector_digests(region).items()})
    return count


@st.composite
def image_sets(draw: st.DrawFn) -> list[FlashImage]:
    """Up to four images, some of which share sectors or blocks, in content that repeats as firmware does."""
    images, offset = [], 0
    for number in range(draw(st.integers(1, 4))):
        offset += draw(st.sampled_from([0, 4, 0x100, SECTOR - 4, SECTOR, BLOCK]))
        size = draw(st.one_of(st.integers(1, 3 * SECTOR), st.sampled_from([BLOCK, BLOCK + 4, 2 * BLOCK + SECTOR])))
        size = min(size, FLASH_SIZE - offset)
        if size <= 0:
            break
        data = bytearray(bytes([draw(st.integers(0, 255))]) * size)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, size - 1))
            data[at] ^= 0x55
        images.append(FlashImage(f"image-{number}", offset, bytes(data)))
        offset += size
    return images


contents = st.sampled_from([b"\xff", b"\x00", b"\x5a"]).map(lambda byte: byte * FLASH_SIZE)


@given(old=contents, sets=st.lists(image_sets(), min_size=1, max_size=4), data=st.data())
def test_after_every_successful_flash_the_content_is_right(
    old: bytes, sets: list[list[FlashImage]], data: st.DataObject
) -> None:
    chip, memory = MemoryChip(old), FlashMemory()
    for images in sets:
        chip.lies = data.draw(st.lists(st.booleans(), max_size=3))
        chip.written, chip.cut_after = 0, data.draw(st.none() | st.integers(0, 3 * BLOCK))
        try:
            flash(chip, images, memory)
        except (PowerCut, FlashError):
            chip.lies, chip.cut_after = [], None
            flash(chip, images, memory)
        assert shows(chip, images)


@given(old=contents, images=image_sets(), data=st.data())
def test_a_wrong_memory_never_leads_to_wrong_content(old: bytes, images: list[FlashImage], data: st.DataObject) -> None:
    wanted = {number: text for region in regions_of(images) for number, text in sector_digests(region).items()}
    for number in data.draw(st.sets(st.sampled_from(sorted(wanted)))):
        wanted[number] = "0" * 32
    chip, memory = MemoryChip(old), FlashMemory(sectors=wanted, trusted=True)

    flash(chip, images, memory)

    assert shows(chip, images)


@given(images=image_sets())
def test_what_was_just_written_is_not_written_again(images: list[FlashImage]) -> None:
    chip, memory = MemoryChip(b"\x00" * FLASH_SIZE), FlashMemory()
    flash(chip, images, memory)

    assert plan_flash(images, memory.sectors).identical
    assert flash(chip, images, memory) == 0
    assert flash(chip, images, FlashMemory()) == 0


@given(images=image_sets(), data=st.data())
def test_one_changed_byte_costs_one_sector(images: list[FlashImage], data: st.DataObject) -> None:
    chip, memory = MemoryChip(b"\x00" * FLASH_SIZE), FlashMemory()
    flash(chip, images, memory)
    image = data.draw(st.sampled_from(images))
    changed = bytearray(image.data)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 0xFF
    images[images.index(image)] = FlashImage(image.name, image.offset, bytes(changed))

    assert 0 < flash(chip, images, memory) <= SECTOR
    assert shows(chip, images)


def test_a_changed_sector_is_found_by_few_questions() -> None:
    image = FlashImage("app", 0x10000, bytes(range(256)) * (0x40000 // 256))
    [region] = regions_of([image])
    chip = MemoryChip(bytes(FLASH_SIZE))
    chip.write(region, region.whole, None, lambda done, of: None)
    chip.content[0x23456] ^= 1

    assert find_differences(region, lambda span: chip.holds(region, span)) == (Span(0x23000, 0x24000),)
    assert chip.questions <= 8 + 1 + 4 + 16


def test_other_content_is_told_by_samples_alone() -> None:
    [region] = regions_of([FlashImage("app", 0, bytes(range(256)) * 1024)])
    chip = MemoryChip(bytes(FLASH_SIZE))

    assert find_differences(region, lambda span: chip.holds(region, span)) == (region.whole,)
    assert chip.questions == 8


def test_images_that_share_a_sector_are_written_together() -> None:
    images = [
        FlashImage("a", 0x1000, b"a" * 0x100),
        FlashImage("b", 0x1200, b"b" * 0x100),
        FlashImage("c", 0x2000, b"c"),
    ]

    regions = regions_of(images)

    assert [(region.name, region.offset, len(region.data)) for region in regions] == [
        ("a+b", 0x1000, 0x300),
        ("c", 0x2000, 1),
    ]


def test_a_chip_that_never_shows_what_was_written_fails() -> None:
    [region] = regions_of([FlashImage("app", 0, b"x" * 0x2000)])
    chip = MemoryChip(bytes(FLASH_SIZE))
    chip.lies = [True] * 100

    with pytest.raises(FlashError, match="MD5 of it is wrong"):
        bring(chip, region, None, FlashMemory(), None, Silent())


def test_where_the_chip_computes_no_sums_everything_is_written() -> None:
    [region] = regions_of([FlashImage("app", 0, b"x" * 0x2000)])
    chip = MemoryChip(bytes(FLASH_SIZE))
    chip.provable = False

    assert bring(chip, region, (), FlashMemory(), None, Silent()) == (region.whole,)
    assert chip.questions == 0


STAMP = {"device": 1, "lock": 2}


def remembered(path: Path) -> FlashMemory:
    memory = FlashMemory()
    memory.take_over(path, STAMP)
    memory.learn({1: "one"})
    memory.save(STAMP)
    return memory


def taken_over(path: Path, stamp: dict[str, int] | None = STAMP) -> FlashMemory:
    memory = FlashMemory()
    memory.take_over(path, stamp)
    return memory


def test_memory_is_trusted_only_where_nobody_came_between(tmp_path: Path) -> None:
    path = tmp_path / "slots" / "hut-01.json"
    for stamp, trusted in ((STAMP, True), ({**STAMP, "lock": 3}, False), (None, False)):
        remembered(path)
        assert taken_over(path, stamp).trusted is trusted
        assert not taken_over(path).trusted, "the session before this one did not end in an orderly way"


@given(cut=st.integers(0, 300), flip=st.integers(1, 255))
def test_a_damaged_file_is_not_believed(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    path = tmp_path_factory.mktemp("memory") / "hut-01.json"
    remembered(path)
    whole = path.read_bytes()
    at = cut % len(whole)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])

    assert not taken_over(path).trusted


def test_a_failed_baud_rate_is_remembered_once_a_lower_one_proved_that_it_was_why(tmp_path: Path) -> None:
    memory = FlashMemory(path=tmp_path / "m.json")
    assert memory.best_baud(921600) == 921600
    memory.suspect_baud(921600)
    assert memory.best_baud(921600) == 460800
    memory.baud_proved()

    assert taken_over(tmp_path / "m.json").best_baud(921600) == 460800
    assert taken_over(tmp_path / "m.json").best_baud(2_000_000) == 2_000_000


def test_a_disk_that_takes_nothing_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = FlashMemory(path=tmp_path / "file" / "m.json")

    memory.learn({1: "one"})

    assert memory.trusted
    assert not taken_over(tmp_path / "file" / "m.json").trusted


def test_a_driver_whose_count_stays_0_does_not_hide_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cdc_acm answers, the driver of USB ports that chips have themselves."""
    device = tmp_path / "ttyACM0"
    device.touch()
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: bytes(80))
    before = device_stamp(str(device), 3)
    os.utime(device, ns=(0, 8_000_000_000))

    assert before is not None and device_stamp(str(device), 3) != before
