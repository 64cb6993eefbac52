"""A conversation with the chip's serial loader: from the reset to a stub that answers at the highest rate it can.

The reset lines are driven by us, so esptool connects without resetting, and the chip is left in the loader: the
caller restarts it when it is ready to listen.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_hut.board.esptool_log import progress_to, quiet_esptool
from pytest_hut.board.flash_memory import FlashMemory
from pytest_hut.board.flash_plan import ERASED, Region, Span
from pytest_hut.board.lent_port import LentPort
from pytest_hut.board.packets import checksum, loader_class
from pytest_hut.board.reset import reset_to_loader
from pytest_hut.errors import FlashError, HutError, PortError
from pytest_hut.firmware.compressed import compressed
from pytest_hut.link.base import Link
from pytest_hut.link.tty import TROUBLE

ROM_BAUD = 115200
"""What every ROM loader understands before the rate is raised."""

CONNECT_S = 15.0
STUB_S = 15.0
EARLY_STUB_S = 5.0
"""The stub at the higher rate is either up soon or not at all."""

NEW_BAUD_S = 3.0
"""How long the first answer at a new rate may take."""

LOADER_BANNER_S = 0.5
"""How long the ROM may take to say that it waits for a download; a silent one is tried all the same."""
LOADER_BANNER = b"waiting for download"

VERIFY_S_PER_MIB = 8.0
WRITE_FLOOR_S = 60.0

BLOCK_S = 3.0
SLOWEST_BYTES_PER_S = 20_000
"""A healthy flash is never slower than this, erasing included; a write gets no more time than that."""

LEAST_FLASH = 4 << 20
"""What a ROM is told at least, in bytes, where the size cannot be read; nothing is done behind the images."""

MAGIC_REGISTER = 0x40001000
"""A register that every chip lets be read: the answer comes when all before it is done."""


def padded(content: bytes) -> bytes:
    """Return what is sent for `content`: chips write whole words."""
    return content + ERASED * (-len(content) % 4)


class FlashRefused(FlashError):
    """Trying again would change nothing."""


@dataclass(frozen=True)
class ChipFacts:
    """What the loader says about the chip."""

    chip: str
    revision: str
    mac: str
    flash_size: int
    """Bytes; 0 where the chip does not let it be read (secure download mode)."""


class LoaderSession:
    """A chip whose loader answers: esptool's RAM stub, or the ROM where no stub may run."""

    def __init__(self, esp: Any, port: LentPort, facts: ChipFacts) -> None:
        self._esp = esp
        self._port = port
        self.facts = facts
        self.baud = port.baudrate

    @property
    def provable(self) -> bool:
        """The chip computes MD5 sums of its flash; in secure download mode it does not."""
        return not self._esp.secure_download_mode

    @property
    def bytes_sent(self) -> int:
        """Bytes that went over the wire to the chip so far."""
        return self._port.bytes_sent

    def holds(self, region: Region, span: Span) -> bool:
        """Whether the flash has exactly this content, by the MD5 that the chip computes itself."""
        self._port.set_step(f"checking {region.name}", 5 + VERIFY_S_PER_MIB * span.size / 2**20)
        digest: str = self._esp.flash_md5sum(span.start, span.size)
        return digest == hashlib.md5(region.content(span), usedforsecurity=False).hexdigest()

    def write(self, region: Region, span: Span, cache: Path | None, progress: Callable[[int, int], None]) -> None:
        """Write a part of a region. `progress` gets the bytes done and to do.

        Raises what esptool raises, PortError, FlashError.
        """
        wire_s = 10 * span.size / self.baud
        self._port.set_step(f"writing {region.name}", WRITE_FLOOR_S + wire_s + span.size / SLOWEST_BYTES_PER_S)
        content = padded(region.content(span))
        if self._esp.IS_STUB:
            self._write_with_stub(span.start, content, compressed(content, cache), progress)
            return
        from esptool.cmds import write_flash

        # Secure download mode knows no compressed writes (esptool's documentation, "Serial Protocol").
        with progress_to(progress):
            write_flash(self._esp, [(span.start, content)], no_compress=True, force=True)

    def _write_with_stub(
        self, offset: int, content: bytes, packed: bytes, progress: Callable[[int, int], None]
    ) -> None:
        esp, size = self._esp, self._esp.FLASH_WRITE_SIZE
        esp.flash_defl_begin(len(content), len(packed), offset)
        inflater = zlib.decompressobj()
        patience_s = BLOCK_S
        for number, start in enumerate(range(0, len(packed), size)):
            block = packed[start : start + size]
            esp.check_command(
                f"write block {number}",
                esp.ESP_CMDS["FLASH_DEFL_DATA"],
                struct.pack("<IIII", len(block), number, 0, 0) + block,
                checksum(block),
                timeout=patience_s,
            )
            # The stub acknowledges a block before it writes it, so the next one waits for this one.
            patience_s = BLOCK_S + len(inflater.decompress(block)) / SLOWEST_BYTES_PER_S
            progress(min(start + size, len(packed)), len(packed))
        esp.read_reg(MAGIC_REGISTER, timeout=patience_s)


@contextlib.contextmanager
def loader_session(
    link: Link, wiring: str, chip: str, baud: int, memory: FlashMemory, flash_end: int = 0
) -> Iterator[LoaderSession]:
    """Restart the chip into its loader, start esptool's stub, raise the baud rate, and find out who it is.

    The rate is the highest up to `baud` that the slot's line carries, as far as `memory` knows; one that fails is
    remembered. `flash_end` is the first flash address behind all that will be written: a ROM that does not let the
    size of its flash be read has to be told one. Every failure inside comes out as FlashError with the step it
    happened in, or as PortError.
    """
    console_baud = link.baudrate
    baud = memory.best_baud(baud)
    port = LentPort(link)
    early = memory.early_baud and baud > ROM_BAUD
    try:
        banner = _restart_into_loader(link, wiring, port)
        with quiet_esptool():
            esp = _connect(chip, port, banner)
            _require_writable(esp)
            if esp.secure_download_mode:
                _change_secured_baud(esp, port, baud)
                esp = _attached(esp, port)
                esp.flash_set_parameters(max(LEAST_FLASH, 1 << (flash_end - 1).bit_length()))
                yield LoaderSession(esp, port, ChipFacts(chip, "", "", 0))
                memory.baud_proved()
                return
            mac = ":".join(f"{byte:02x}" for byte in esp.read_mac("BASE_MAC"))
            revision = f"{esp.get_major_chip_version()}.{esp.get_minor_chip_version()}"
            esp = _with_stub(esp, port, baud, memory, early=early)
            esp = _attached(esp, port)
            size_id = esp.flash_id() >> 16
            facts = ChipFacts(chip, revision, mac, 1 << size_id if 16 <= size_id <= 28 else 0)
            if not facts.flash_size:
                raise FlashError(f"the flash chip does not answer (its id reads {esp.flash_id():#x})")
            esp.flash_set_parameters(facts.flash_size)
            yield LoaderSession(esp, port, facts)
            memory.baud_proved()
    except PortError:
        raise
    except HutError as error:
        _blame_baud(error, link.baudrate, memory)
        if isinstance(error, FlashError) and not str(error).startswith(port.step):
            raise type(error)(f"{port.step} failed: {error}") from None
        raise
    except (RuntimeError, ValueError, *TROUBLE) as error:
        _blame_baud(error, link.baudrate, memory)
        # esptool's errors are RuntimeError or OSError in several shapes; the first line says it.
        raise FlashError(f"{port.step} failed: {_first_sentence(error)}") from error
    finally:
        with contextlib.suppress(PortError, *TROUBLE):
            link.baudrate = console_baud


def _blame_baud(error: BaseException, baud: int, memory: FlashMemory) -> None:
    if not isinstance(error, FlashRefused) and baud > ROM_BAUD:
        memory.suspect_baud(baud)


def _restart_into_loader(link: Link, wiring: str, port: LentPort) -> bytes:
    """Return what the chip says when it comes up. esptool is not needed for this, and may be loaded meanwhile."""
    port.set_step("connecting to the ROM loader", CONNECT_S)
    link.baudrate = ROM_BAUD
    reset_to_loader(link, wiring)
    return _listen(port)


def _connect(chip: str, port: LentPort, banner: bytes) -> Any:
    esp = loader_class(chip)(port, ROM_BAUD)
    try:
        esp.connect(mode="no-reset", attempts=2, warnings=False)
    except (RuntimeError, OSError) as error:
        raise FlashError(_why_not_connected(banner, error)) from error
    return esp


def _listen(port: LentPort) -> bytes:
    """Return what the chip says when it comes up; at once when it says that it waits."""
    banner = b""
    deadline = time.monotonic() + LOADER_BANNER_S
    while LOADER_BANNER not in banner and (left := deadline - time.monotonic()) > 0:
        banner += port.receive(left)
    return banner


def _require_writable(esp: Any) -> None:
    """Raise FlashRefused where plain images would leave a chip that cannot start any more."""
    if esp.secure_download_mode:
        info = esp.get_security_info() if esp.SECURITY_INFO_SUPPORTED else {"flash_crypt_cnt": 0}
        encrypted = bin(info["flash_crypt_cnt"]).count("1") % 2 == 1
    else:
        encrypted = esp.get_flash_encryption_enabled()
    if encrypted:
        raise FlashRefused(
            "the chip's flash encryption is on: plain images written over serial would not start; flash it with "
            "esptool and encrypted images, or give the slot a board without encryption"
        )


def _with_stub(esp: Any, port: LentPort, baud: int, memory: FlashMemory, *, early: bool) -> Any:
    """Start the stub and raise the rate: before its upload where the ROM does that, which saves half a second."""
    from esptool.cmds import run_stub

    if early:
        port.set_step(f"starting esptool's stub at {baud} baud", EARLY_STUB_S)
        try:
            _change_baud(esp, baud)
            return run_stub(esp)
        except (RuntimeError, FlashError):
            memory.early_baud = False
            memory.save(None)
            port.baudrate = ROM_BAUD  # It was the order of things that failed, not yet the rate.
            raise
    port.set_step("starting esptool's stub in the chip's RAM", STUB_S)
    esp = run_stub(esp)
    if baud != ROM_BAUD:
        port.set_step(f"changing to {baud} baud", CONNECT_S)
        _change_baud(esp, baud)
    return esp


def _change_baud(esp: Any, baud: int) -> None:
    """Raise the rate and have the chip answer at it, so that a line that cannot carry it is told from other trouble."""
    esp.change_baud(baud)
    esp.read_reg(MAGIC_REGISTER, timeout=NEW_BAUD_S)


def _change_secured_baud(esp: Any, port: LentPort, baud: int) -> None:
    """As `_change_baud`, with a question that secure download mode allows."""
    if baud != ROM_BAUD:
        port.set_step(f"changing to {baud} baud", CONNECT_S)
        esp.change_baud(baud)
        esp.get_security_info(cache=False)


def _attached(esp: Any, port: LentPort) -> Any:
    from esptool.cmds import attach_flash

    port.set_step("identifying the flash chip", CONNECT_S)
    attach_flash(esp)
    return esp


def _why_not_connected(banner: bytes, error: BaseException) -> str:
    mode = re.search(rb"boot:(0x[0-9a-f]+) \(([^)]*)", banner)
    if mode is not None and LOADER_BANNER not in banner:
        words = mode[2].decode(errors="replace")
        return (
            f"the chip started in mode {mode[1].decode()} ({words}) instead of its loader: IO0 was not low at reset; "
            "check that DTR and RTS are wired as on a devkit"
        )
    return _first_sentence(error)


def _first_sentence(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and "troubleshooting" not in line.lower()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
