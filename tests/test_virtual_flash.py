"""The flash file of a virtual board."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.virtual.flash import SECTOR_SIZE, FileFlash

SIZE = 4 * SECTOR_SIZE


@pytest.fixture
def flash(tmp_path: Path) -> FileFlash:
    return FileFlash(tmp_path / "board.flash", SIZE)


def test_missing_file_is_created_erased_in_a_folder_that_did_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "new" / "board.flash"
    flash = FileFlash(path, SIZE)
    assert flash.read(0, SIZE) == b"\xff" * SIZE
    assert path.read_bytes() == b"\xff" * SIZE
    assert [entry.name for entry in path.parent.iterdir()] == ["board.flash"]


def test_file_of_another_size_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "board.flash"
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"board\.flash holds 3 bytes, but the board's flash has 16384"):
        FileFlash(path, SIZE)
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize("size", [0, -4096, 4095, 5000])
def test_size_must_be_whole_sectors(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="whole number of 4096-byte sectors"):
        FileFlash(tmp_path / "board.flash", size)
    assert not (tmp_path / "board.flash").exists()


def test_content_survives_and_is_shared(tmp_path: Path, flash: FileFlash) -> None:
    other = FileFlash(flash.path, SIZE)
    flash.write(100, b"hello")
    assert other.read(100, 5) == b"hello"
    flash.close()
    other.close()
    assert FileFlash(tmp_path / "board.flash", SIZE).read(99, 7) == b"\xffhello\xff"


def test_another_process_sees_the_same_content(flash: FileFlash) -> None:
    program = (
        "import sys; from pathlib import Path; from pytest_hut.virtual.flash import FileFlash\n"
        f"flash = FileFlash(Path(sys.argv[1]), {SIZE}); print(flash.read(0, 4).hex()); flash.write(4, b'back')"
    )
    flash.write(0, b"over")
    done = subprocess.run(
        [sys.executable, "-c", program, str(flash.path)], check=True, capture_output=True, text=True, timeout=30
    )
    assert bytes.fromhex(done.stdout.strip()) == b"over"
    assert flash.read(0, 8) == b"overback"


def test_programming_only_clears_bits(flash: FileFlash) -> None:
    flash.write(0, b"\xf0\xff\x00")
    flash.write(0, b"\x3c\x0f\xff")
    assert flash.read(0, 4) == b"\x30\x0f\x00\xff"


def test_erase_covers_the_sectors_it_touches(flash: FileFlash) -> None:
    flash.write(0, b"\0" * SIZE)
    flash.erase(SECTOR_SIZE + 1, SECTOR_SIZE)
    assert flash.read(0, SIZE) == b"\0" * SECTOR_SIZE + b"\xff" * 2 * SECTOR_SIZE + b"\0" * SECTOR_SIZE
    flash.erase(3 * SECTOR_SIZE, 0)
    assert flash.read(3 * SECTOR_SIZE, 1) == b"\0"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (0, -1)])
def test_outside_the_chip_is_an_error(flash: FileFlash, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="outside a flash of 16384 bytes"):
        flash.read(offset, length)
    with pytest.raises(ValueError, match="outside a flash of 16384 bytes"):
        flash.erase(offset, length)
    if length > 0:
        with pytest.raises(ValueError, match="outside a flash of 16384 bytes"):
            flash.write(offset, b"\0" * length)
    assert flash.read(0, SIZE) == b"\xff" * SIZE


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(0, SIZE - 1), st.binary(max_size=64)),
            st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE)),
        ),
        max_size=12,
    )
)
def test_behaves_like_a_byte_by_byte_model(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]) -> None:
    flash = FileFlash(tmp_path_factory.mktemp("model") / "board.flash", SIZE)
    model = bytearray(b"\xff" * SIZE)
    for offset, argument in steps:
        if isinstance(argument, bytes):
            data = argument[: SIZE - offset]
            flash.write(offset, data)
            for index, byte in enumerate(data):
                model[offset + index] &= byte
        else:
            length = min(argument, SIZE - offset)
            flash.erase(offset, length)
            for sector in range(0, SIZE, SECTOR_SIZE):
                if length and sector < offset + length and sector + SECTOR_SIZE > offset:
                    model[sector : sector + SECTOR_SIZE] = b"\xff" * SECTOR_SIZE
    assert flash.read(0, SIZE) == model
    flash.close()
