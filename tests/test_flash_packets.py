"""The packet layer under esptool, and the cache of compressed images."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_hut.board.framing import PacketReader, encode
from pytest_hut.board.packets import checksum
from pytest_hut.firmware import compressed as cache
from pytest_hut.firmware.compressed import WORTH_KEEPING, compressed


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of earlier tests."""
    monkeypatch.setattr(cache, "_recent", {})


packets = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in at})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def read_all(chunks: list[bytes]) -> list[bytes]:
    reader, found = PacketReader(), []
    for chunk in chunks:
        reader.feed(chunk)
        while (packet := reader.packet()) is not None:
            found.append(packet)
    return found


@given(sent=packets, at=st.lists(st.integers(0, 600)))
def test_packets_arrive_whatever_the_chunks(sent: list[bytes], at: list[int]) -> None:
    assert read_all(cut(b"".join(map(encode, sent)), at)) == sent


@given(noise=st.binary(max_size=200), sent=st.binary(min_size=1, max_size=60))
def test_after_noise_the_second_packet_arrives_at_the_latest(noise: bytes, sent: bytes) -> None:
    assert read_all([noise, encode(sent), encode(sent)])[-1] == sent


@given(data=st.binary(max_size=300))
def test_the_checksum_is_the_xor_of_all_bytes(data: bytes) -> None:
    expected = 0xEF
    for byte in data:
        expected ^= byte
    assert checksum(data) == expected


def test_the_loader_classes_are_esptools_own_with_our_packets() -> None:
    from esptool.targets import CHIP_DEFS

    from pytest_hut.board.packets import Packets, loader_class

    rom = loader_class("esp32")
    assert issubclass(rom, (Packets, CHIP_DEFS["esp32"]))
    assert issubclass(rom.STUB_CLASS, CHIP_DEFS["esp32"].STUB_CLASS)
    assert rom.STUB_CLASS.write is Packets.write
    assert CHIP_DEFS["esp32"].write is not Packets.write, "esptool itself stays as it is"


def test_compression_is_kept_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * (WORTH_KEEPING // 256)
    first = compressed(data, tmp_path / "cache")
    assert zlib.decompress(first) == data

    monkeypatch.setattr(cache.zlib, "compress", None)
    assert compressed(data, tmp_path / "elsewhere") == first, "out of this process's memory"
    cache._recent.clear()
    assert compressed(data, tmp_path / "cache") == first, "from disk, as in another process"


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "RECENT_LIMIT", 3000)
    for number in range(6):
        compressed(os.urandom(1000) + bytes([number]) * WORTH_KEEPING, tmp_path)
    assert 0 < sum(map(len, cache._recent.values())) <= 3000


def test_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    data = bytes(range(256)) * (WORTH_KEEPING // 256)
    good = compressed(data, tmp_path)
    [entry] = tmp_path.glob("*.z")
    for damage in (b"", good[:-9], zlib.compress(b"something else"), b"\0" * 50):
        entry.write_bytes(damage)
        cache._recent.clear()
        assert compressed(data, tmp_path) == good
        assert entry.read_bytes() == good


def test_the_cache_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CACHE_LIMIT", 3000)
    for number in range(6):
        data = os.urandom(1000) + bytes([number]) * WORTH_KEEPING
        compressed(data, tmp_path)
        for entry in tmp_path.glob("*.z"):
            os.utime(entry, (entry.stat().st_atime - 60, entry.stat().st_mtime - 60))

    assert 0 < sum(entry.stat().st_size for entry in tmp_path.glob("*.z")) <= 3000


def test_a_cache_that_cannot_be_used_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data = bytes(WORTH_KEEPING)

    assert zlib.decompress(compressed(data, tmp_path / "file")) == data
