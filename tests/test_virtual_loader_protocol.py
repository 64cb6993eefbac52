"""The loader of the virtual chips byte by byte: status codes, timing of replies, and hosts that talk nonsense."""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_chip_rig import EVERY_CHIP, MIB, machine_with

from pytest_hut.virtual import slip
from pytest_hut.virtual.loader import run_loader
from pytest_hut.virtual.loader_protocol import Op, checksum
from pytest_hut.virtual.machine import ChipStopped, ResetCause

SYNC = b"\x07\x07\x12\x20" + 32 * b"\x55"


class MemoryFlash:
    """A flash without a file."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.content = bytearray(b"\xff" * size)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        self.content[offset : offset + len(data)] = data

    def erase(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size
        start, end = offset - offset % 4096, offset + length + -(offset + length) % 4096
        self.content[start:end] = b"\xff" * (end - start)


class ScriptUart:
    """Delivers chunks, then stops the chip; keeps what the chip said."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.baud = 115200
        self._chunks = chunks[::-1]
        self.said = b""

    def read(self, timeout: float | None) -> bytes:
        if not self._chunks:
            raise ChipStopped
        return self._chunks.pop()

    def write(self, data: bytes) -> None:
        self.said += data

    def adopt_host_baud(self) -> None:
        self.baud = 115200


def request(op: int, data: bytes = b"", check: int = 0) -> bytes:
    return slip.encode(struct.pack("<BBHI", 0, op, len(data), check) + data)


def block(op: int, number: int, payload: bytes) -> bytes:
    return request(op, struct.pack("<IIII", len(payload), number, 0, 0) + payload, checksum(payload))


START_STUB = (
    request(Op.SYNC, SYNC)
    + request(Op.MEM_BEGIN, struct.pack("<IIII", 4, 1, 0x1800, 0x40080000))
    + block(Op.MEM_DATA, 0, b"code")
    + request(Op.MEM_END, struct.pack("<II", 0, 0x40080000))
)
START_ROM = (
    request(Op.SYNC, SYNC)
    + request(Op.SPI_ATTACH, bytes(8))
    + request(Op.SPI_SET_PARAMS, struct.pack("<6I", 0, MIB, 65536, 4096, 256, 0xFFFF))
)


def answers(start: bytes, *frames: bytes, chip: str = "esp32", **more: bool) -> list[bytes]:
    """Return the packets the loader answers to `frames` after `start`."""
    before, _ = play(start, chip=chip, **more)
    said, _ = play(start, *frames, chip=chip, **more)
    return said[len(before) :]


def play(*frames: bytes, chip: str = "esp32", **more: bool) -> tuple[list[bytes], MemoryFlash]:
    uart = ScriptUart(list(frames))
    flash = MemoryFlash(MIB)
    with pytest.raises(ChipStopped):
        run_loader(machine_with(uart, flash, chip, set(), **more))
    return slip.SlipDecoder().feed(uart.said), flash


def statuses(packets: list[bytes], size: int) -> list[str]:
    return [packet[-size:].hex() for packet in packets]


def test_sync_is_answered_eight_times_by_rom_and_stub() -> None:
    rom = answers(b"", request(Op.SYNC, SYNC))
    assert rom == [bytes.fromhex("01080400 07071220 00000000")] * 8
    stub = answers(START_STUB, request(Op.SYNC, SYNC))
    assert stub == [bytes.fromhex("01080200 00000000 0000")] * 8


def test_stub_start_is_answered_then_greeted() -> None:
    packets, _ = play(START_STUB)
    assert packets[-2:] == [bytes.fromhex("01060400 00000000 00000000"), b"OHAI"]


def test_rom_says_nothing_before_sync_and_ignores_malformed_packets() -> None:
    read = request(Op.READ_REG, struct.pack("<I", 0x40001000))
    assert answers(b"", read) == []
    assert answers(START_ROM, slip.encode(b"\x00\x0a"), slip.encode(b"\x01" + bytes(11)), request(Op.SYNC)[:-3]) == []
    assert answers(START_ROM, read) == [bytes.fromhex("010a0400 831df000 00000000")]


def test_rom_refuses_unknown_commands_and_the_esp32_knows_no_security_info() -> None:
    refusal = [bytes.fromhex("01000400 00000000 01050000")] * 8
    assert answers(START_ROM, request(Op.READ_FLASH, bytes(16))) == refusal
    assert answers(START_ROM, request(Op.GET_SECURITY_INFO)) == refusal
    (info,) = answers(START_ROM, request(Op.GET_SECURITY_INFO), chip="esp32c6")
    assert struct.unpack("<I", info[8 + 12 : 8 + 16]) == (13,)
    assert info[-4:] == bytes(4)
    assert statuses(answers(START_STUB, request(Op.GET_SECURITY_INFO)), 2) == ["ff00"]


def test_security_info_tells_of_encryption_and_secure_download() -> None:
    ask = request(Op.GET_SECURITY_INFO)
    for more, flags, crypt_count in (
        ({}, 0, 0),
        ({"flash_encryption": True}, 0, 1),
        ({"secure_download": True}, 4, 0),
        ({"secure_download": True, "flash_encryption": True}, 4, 1),
    ):
        (info,) = answers(START_ROM, ask, chip="esp32s3", **more)
        assert struct.unpack_from("<IB", info, 8) == (flags, crypt_count)


def test_in_secure_download_mode_only_plain_writes_are_left() -> None:
    refusal = [bytes.fromhex("01000400 00000000 01050000")] * 8
    for asked in (
        request(Op.READ_REG, struct.pack("<I", 0x40001000)),
        request(Op.WRITE_REG, struct.pack("<4I", 0x40001000, 0, 0, 0)),
        request(Op.MEM_BEGIN, struct.pack("<IIII", 4, 1, 0x1800, 0x40080000)),
        request(Op.FLASH_DEFL_BEGIN, struct.pack("<5I", 4, 1, 0x400, 0x1000, 0)),
        request(Op.SPI_FLASH_MD5, struct.pack("<4I", 0, 1, 0, 0)),
    ):
        assert answers(START_ROM, asked, chip="esp32c3", secure_download=True) == refusal
    write = (begin(Op.FLASH_BEGIN, 4, 1, 0x1000), block(Op.FLASH_DATA, 0, b"data"))
    _, flash = play(START_ROM, *write, chip="esp32c3", secure_download=True)
    assert flash.content[0x1000:0x1004] == b"data"
    with pytest.raises(ValueError, match="no secure download"):
        run_loader(machine_with(ScriptUart([]), MemoryFlash(MIB), "esp32", set(), secure_download=True))


def begin(op: int, size: int, blocks: int, offset: int, block_size: int = 0x400, encrypted: int = 0) -> bytes:
    return request(op, struct.pack("<5I", size, blocks, block_size, offset, encrypted))


@pytest.mark.parametrize(
    ("frames", "rom", "stub"),
    [
        ([block(Op.FLASH_DATA, 0, b"x")], "01060000", "c600"),
        ([request(Op.FLASH_END, bytes(4))], "01060000", "c600"),
        ([request(Op.MEM_END, bytes(8))], "01060000", "c600"),
        ([request(Op.FLASH_BEGIN, bytes(12))], "01050000", "c000"),
        ([request(Op.WRITE_REG, bytes(15))], "01050000", "c000"),
        ([request(Op.CHANGE_BAUDRATE, bytes(8))], "01010000", "c200"),
        ([request(Op.SPI_SET_PARAMS, bytes(24))], "01010000", "c200"),
        ([request(Op.SPI_FLASH_MD5, struct.pack("<4I", MIB, 1, 0, 0))], "01090000", "c400"),
        ([begin(Op.FLASH_BEGIN, 4, 1, 0x1000, encrypted=1)], "01010000", "c200"),
        ([begin(Op.FLASH_BEGIN, 4, 1, 0x1000), request(Op.FLASH_DATA, bytes(15))], "01050000", "c000"),
        ([begin(Op.FLASH_BEGIN, 4, 1, 0x1000), request(Op.FLASH_DATA, bytes(16) + b"x")], "01050000", "c000"),
        (
            [begin(Op.FLASH_BEGIN, 4, 1, 0x1000), request(Op.FLASH_DATA, struct.pack("<4I", 1, 0, 0, 0) + b"x", 1)],
            "01070000",
            "c100",
        ),
        ([begin(Op.FLASH_BEGIN, 4, 2, 0x1000), block(Op.FLASH_DATA, 1, b"late")], "01060000", "c800"),
        ([begin(Op.FLASH_BEGIN, 4, 0, 0x1000), block(Op.FLASH_DATA, 0, b"more")], "01060000", "c800"),
    ],
)
def test_errors_have_the_codes_of_rom_and_stub(frames: list[bytes], rom: str, stub: str) -> None:
    assert statuses(answers(START_ROM, *frames), 4)[-1] == rom
    assert statuses(answers(START_STUB, *frames), 2)[-1] == stub


@pytest.mark.parametrize(
    ("payload", "size", "rom", "stub"),
    [(b"no zlib stream", 100, "010b0000", "c700"), (zlib.compress(bytes(MIB)), 100, "010d0000", "c900")],
)
def test_failed_decompression_is_told_at_once_by_the_rom_and_one_command_later_by_the_stub(
    payload: bytes, size: int, rom: str, stub: str
) -> None:
    frames = [begin(Op.FLASH_DEFL_BEGIN, size, 1, 0x1000), block(Op.FLASH_DEFL_DATA, 0, payload)]
    assert statuses(answers(START_ROM, *frames), 4) == ["00000000", rom]
    next_command = request(Op.READ_REG, bytes(4))
    assert statuses(answers(START_STUB, *frames, next_command, next_command), 2) == ["0000", "0000", stub, "0000"]


def test_stub_misses_data_at_the_end_and_the_rom_needs_the_flash_attached() -> None:
    frames = [begin(Op.FLASH_BEGIN, 8, 2, 0x1000), block(Op.FLASH_DATA, 0, b"half"), request(Op.FLASH_END, b"\1\0\0\0")]
    assert statuses(answers(START_STUB, *frames), 2) == ["0000", "0000", "c800"]
    assert statuses(answers(request(Op.SYNC, SYNC), frames[0]), 4) == ["01080000"]


def test_rom_erases_at_the_beginning_and_the_stub_while_writing() -> None:
    dirty = [begin(Op.FLASH_BEGIN, 0x3000, 3, 0, 0x1000), *(block(Op.FLASH_DATA, at, bytes(0x1000)) for at in range(3))]
    again = [begin(Op.FLASH_BEGIN, 0x3000, 3, 0, 0x1000), block(Op.FLASH_DATA, 0, b"\x55" * 0x1000)]
    _, rom = play(START_ROM, *dirty, *again)
    assert rom.content[:0x4000] == b"\x55" * 0x1000 + b"\xff" * 0x3000
    _, stub = play(START_STUB, *dirty, *again)
    assert stub.content[:0x4000] == b"\x55" * 0x1000 + bytes(0x2000) + b"\xff" * 0x1000


def test_read_flash_waits_for_each_acknowledgement_and_gives_way_to_another_command() -> None:
    read = request(Op.READ_FLASH, struct.pack("<4I", 0, 6, 4, 64))
    acknowledged = [slip.encode(struct.pack("<I", count)) for count in (4, 6)]
    digest = hashlib.md5(b"\xff" * 6).digest()
    assert answers(START_STUB, read, acknowledged[0])[1:] == [b"\xff" * 4, b"\xff" * 2]
    assert answers(START_STUB, read, *acknowledged)[1:] == [b"\xff" * 4, b"\xff" * 2, digest]
    interrupted = answers(START_STUB, read, request(Op.READ_REG, bytes(4)))
    assert interrupted[1:] == [b"\xff" * 4, bytes.fromhex("010a0200 00000000 0000")]
    assert statuses(answers(START_STUB, request(Op.READ_FLASH, struct.pack("<4I", 0, 6, 0, 64))), 2) == ["c000"]


def test_slow_read_always_returns_64_bytes() -> None:
    (answer,) = answers(START_ROM, request(Op.READ_FLASH_SLOW, struct.pack("<II", 0, 3)))
    assert answer[8:] == b"\xff" * 3 + bytes(61) + bytes(4)
    assert statuses(answers(START_ROM, request(Op.READ_FLASH_SLOW, struct.pack("<II", 0, 65))), 4) == ["010a0000"]


def test_run_user_code_of_the_stub_has_no_answer_and_leaves_download_mode() -> None:
    uart = ScriptUart([START_STUB, request(Op.RUN_USER_CODE)])
    machine = machine_with(uart, MemoryFlash(MIB), "esp32", set())
    assert run_loader(machine) is ResetCause.SOFTWARE_CPU
    assert not machine.download
    assert uart.said.endswith(slip.encode(b"OHAI"))


@given(packets=st.lists(st.binary(min_size=1), max_size=8), cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_slip_round_trip_in_any_chunks(packets: list[bytes], cuts: list[int]) -> None:
    wire = b"noise" + b"".join(map(slip.encode, packets))
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    decoder = slip.SlipDecoder()
    received = [packet for start, end in itertools.pairwise(edges) for packet in decoder.feed(wire[start:end])]
    assert received == packets


def test_slip_drops_bad_escapes_and_endless_packets() -> None:
    decoder = slip.SlipDecoder()
    assert decoder.feed(b"\xc0a\xdb\xc0\xc0\xdbx\xc0\xc0ok\xc0") == [b"ok"]
    for _ in range(5):
        assert decoder.feed(bytes(slip.MAX_ENCODED_FRAME // 2)) == []
    assert decoder.feed(b"\xc0next\xc0") == [b"next"]


WORD = st.one_of(st.integers(0, 8), st.sampled_from([0x400, 0x1000, MIB, MIB - 1]), st.integers(0, 2**32 - 1))
COMMANDS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda op, words, tail: request(op, struct.pack(f"<{len(words)}I", *words) + tail, checksum(tail)),
        st.one_of(st.sampled_from(list(Op)), st.integers(0, 255)),
        st.lists(WORD, max_size=6),
        st.binary(max_size=8),
    ),
    st.builds(
        block,
        st.sampled_from([Op.MEM_DATA, Op.FLASH_DATA, Op.FLASH_DEFL_DATA]),
        st.integers(0, 2),
        st.one_of(st.binary(max_size=40), st.just(zlib.compress(bytes(5000)))),
    ),
)


@settings(max_examples=300, deadline=None)
@given(chip=st.sampled_from(EVERY_CHIP), start=st.sampled_from([b"", START_ROM, START_STUB]), frames=st.lists(COMMANDS))
def test_no_host_can_break_the_loader(chip: str, start: bytes, frames: list[bytes]) -> None:
    machine = machine_with(ScriptUart([start, *frames]), MemoryFlash(MIB), chip, set())
    try:
        cause = run_loader(machine)
    except ChipStopped:
        return
    assert cause is ResetCause.SOFTWARE_CPU
