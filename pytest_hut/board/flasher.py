"""Put images on a board with esptool as a library, on the port that is already open.

The reset lines are driven by us, so esptool connects without resetting, and the chip is left in the loader: the
caller restarts it when it is ready to listen.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_hut.board.lent_port import LentPort
from pytest_hut.board.progress import Progress
from pytest_hut.board.reset import reset_to_loader
from pytest_hut.errors import FlashError, HutError
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.link.base import Link
from pytest_hut.link.tty import TROUBLE

ROM_BAUD = 115200
"""What every ROM loader understands before the rate is raised."""

CONNECT_S = 15.0
STUB_S = 15.0
ANSWER_S = 3.0
"""How long one read may wait where esptool itself sets no limit."""
VERIFY_S_PER_MIB = 8.0
WRITE_FLOOR_S = 60.0

SLOWEST_BYTES_PER_S = 20_000
"""A healthy flash is never slower than this, erasing included; a write gets no more time than that."""


@dataclass(frozen=True)
class ChipFacts:
    """What the loader says about the chip."""

    chip: str
    revision: str
    mac: str
    flash_size: int
    """Bytes."""


@dataclass(frozen=True)
class FlashOutcome:
    """What one successful flash did."""

    facts: ChipFacts
    written: tuple[str, ...]
    """Names of the images that were written; all others were proved by MD5 to be there already."""
    bytes_written: int
    baud: int


def flash_images(link: Link, wiring: str, chip: str, baud: int, images: ImageSet, progress: Progress) -> FlashOutcome:
    """Make the flash hold `images`: what the chip's own MD5 proves to be there is not written again.

    The console reader must be paused: the port is esptool's until this returns.

    Raises:
        FlashError: with the step that failed and why.
        PortError: the port went away.
    """
    with loader_session(link, wiring, chip, baud) as session:
        facts = session.facts
        if images.images[-1].end > facts.flash_size:
            raise FlashError(
                f"{images.images[-1].name} ends at {images.images[-1].end:#x}, but the flash of this board has only "
                f"{facts.flash_size // 1024} KiB"
            )
        missing = [image for image in images.images if not session.holds(image)]
        for image in missing:
            session.write(image, progress)
        return FlashOutcome(facts, tuple(image.name for image in missing), sum(len(i.data) for i in missing), baud)


def identify(link: Link, wiring: str, chip: str, baud: int) -> ChipFacts:
    """Ask the chip's loader who it is; the chip stays in its loader. Raises FlashError, PortError."""
    with loader_session(link, wiring, chip, baud) as session:
        return session.facts


class LoaderSession:
    """A chip whose loader (RAM stub) runs and answers."""

    def __init__(self, esp: Any, port: LentPort, facts: ChipFacts, quiet: _QuietLog) -> None:
        self._esp = esp
        self._port = port
        self._quiet = quiet
        self.facts = facts

    def holds(self, image: FlashImage) -> bool:
        """Whether the flash has exactly this content, by the MD5 that the chip computes itself."""
        self._port.set_step(f"checking {image.name}", 5 + VERIFY_S_PER_MIB * len(image.data) / 2**20)
        digest: str = self._esp.flash_md5sum(image.offset, len(image.data))
        return digest == hashlib.md5(image.data, usedforsecurity=False).hexdigest()

    def write(self, image: FlashImage, progress: Progress) -> None:
        """Write one image and have it verified. Raises what esptool raises."""
        from esptool.cmds import write_flash

        self._port.set_step(f"writing {image.name}", WRITE_FLOOR_S + len(image.data) / SLOWEST_BYTES_PER_S)
        what = f"writing {image.name} ({len(image.data) // 1024} KiB at {image.offset:#x})"
        progress.line(what)
        with self._quiet.progress_to(lambda done, total: progress.bar(what, done, total)):
            write_flash(self._esp, [(image.offset, image.data)], compress=True, force=True)


@contextlib.contextmanager
def loader_session(link: Link, wiring: str, chip: str, baud: int) -> Iterator[LoaderSession]:
    """Restart the chip into its loader, start esptool's stub, raise the baud rate, and find out who it is.

    Every failure inside comes out as FlashError with the step it happened in.
    """
    from esptool.cmds import attach_flash
    from esptool.targets import CHIP_DEFS

    console_baud = link.baudrate
    port = LentPort(link.port, 0.0)
    port.set_step("connecting to the ROM loader", CONNECT_S)
    timeout = link.port.timeout
    quiet = _QuietLog.install()
    try:
        link.baudrate = ROM_BAUD
        reset_to_loader(link, wiring)
        esp = CHIP_DEFS[chip](port, ROM_BAUD)
        banner = link.port.read(4096)
        link.port.timeout = ANSWER_S
        try:
            esp.connect(mode="no-reset", attempts=2, warnings=False)
        except (RuntimeError, OSError) as error:
            raise FlashError(_why_not_connected(banner, error)) from error
        mac = ":".join(f"{byte:02x}" for byte in esp.read_mac("BASE_MAC"))
        port.set_step("starting esptool's stub in the chip's RAM", STUB_S)
        esp = esp.run_stub()
        if baud != ROM_BAUD:
            port.set_step(f"changing to {baud} baud", CONNECT_S)
            esp.change_baud(baud)
        port.set_step("identifying the flash chip", CONNECT_S)
        attach_flash(esp)
        size_id = esp.flash_id() >> 16
        facts = ChipFacts(
            chip=chip,
            revision=_revision_of(esp),
            mac=mac,
            flash_size=1 << size_id if 16 <= size_id <= 28 else 0,
        )
        if not facts.flash_size:
            raise FlashError(f"the flash chip does not answer (its id reads {esp.flash_id():#x})")
        esp.flash_set_parameters(facts.flash_size)
        yield LoaderSession(esp, port, facts, quiet)
    except HutError as error:
        if isinstance(error, FlashError) and not str(error).startswith(port.step):
            raise FlashError(f"{port.step} failed: {error}") from None
        raise
    except (RuntimeError, ValueError, *TROUBLE) as error:
        # esptool's errors are RuntimeError or OSError in several shapes; the first line says it.
        raise FlashError(f"{port.step} failed: {_first_sentence(error)}") from error
    finally:
        with contextlib.suppress(*TROUBLE):
            link.port.timeout = timeout
            link.baudrate = console_baud


def _why_not_connected(banner: bytes, error: BaseException) -> str:
    mode = re.search(rb"boot:(0x[0-9a-f]+) \(([^)]*)", banner)
    if mode is not None and b"waiting for download" not in banner:
        words = mode[2].decode(errors="replace")
        return (
            f"the chip started in mode {mode[1].decode()} ({words}) instead of its loader: IO0 was not low at reset; "
            "check that DTR and RTS are wired as on a devkit"
        )
    return _first_sentence(error)


def _revision_of(esp: Any) -> str:
    return f"{esp.get_major_chip_version()}.{esp.get_minor_chip_version()}"


def _first_sentence(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and "troubleshooting" not in line.lower()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


class _QuietLog:
    """esptool's logger while we use it: nothing reaches the terminal, progress reaches whoever asked for it."""

    _installed: _QuietLog | None = None

    def __init__(self) -> None:
        self._progress: Callable[[int, int], None] | None = None

    @classmethod
    def install(cls) -> _QuietLog:
        """Make esptool log through one of these from now on, and return it."""
        if cls._installed is None:
            from esptool.logger import TemplateLogger, log

            quiet = cls()

            class Adapter(TemplateLogger):  # type: ignore[misc]
                def print(self, *args: Any, **kwargs: Any) -> None: ...
                def note(self, message: str) -> None: ...
                def warning(self, message: str) -> None: ...
                def error(self, message: str) -> None: ...
                def stage(self, finish: bool = False) -> None: ...
                def set_verbosity(self, verbosity: str) -> None: ...

                def progress_bar(self, cur_iter: int, total_iters: int, *_args: Any, **_kwargs: Any) -> None:
                    if quiet._progress is not None:
                        quiet._progress(cur_iter, total_iters)

            log.set_logger(Adapter())
            cls._installed = quiet
        return cls._installed

    @contextlib.contextmanager
    def progress_to(self, receiver: Callable[[int, int], None]) -> Iterator[None]:
        """Send progress to `receiver` for a while."""
        self._progress = receiver
        try:
            yield
        finally:
            self._progress = None
