"""The board of a held slot: what a test gets to hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pytest_hut.bench.models import Slot
from pytest_hut.board.bootlog_model import Boot
from pytest_hut.board.console import Console
from pytest_hut.board.flash_memory import FlashMemory
from pytest_hut.board.flash_plan import FlashPlan, plan_flash, total
from pytest_hut.board.flasher import ChipFacts, FlashOutcome, flash_images, identify
from pytest_hut.board.loader_session import FlashRefused
from pytest_hut.board.power_proof import PowerProof
from pytest_hut.board.progress import Progress
from pytest_hut.board.reader import PortReader
from pytest_hut.board.reset import reset_to_app
from pytest_hut.errors import FlashError, HutError, PortError, RelayError
from pytest_hut.events.types import (
    BoardIdentified,
    BoardReset,
    Booted,
    Event,
    FlashFailed,
    FlashFinished,
    FlashPlanned,
)
from pytest_hut.firmware.identity import FirmwareIdentity, describe
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.link.base import Link
from pytest_hut.power.relay import Relay

__tracebackhide__ = True  # A test's author wants to see the test's line, not ours.

FLASH_TRIES = 3

CYCLE_AFTER_FAILURES = 2
"""After so many failed tries the board is power-cycled before the next one."""


PROVED_BY_BANNER = "ELF SHA-256 in the boot banner"

PROVING_BOOT_S = 10.0
"""How long the boot may take that proves a firmware without asking the chip's loader."""


LEAST_DIGITS = 8
"""ESP-IDF prints no fewer (CONFIG_APP_RETRIEVE_LEN_ELF_SHA): with fewer, a bad line cut them short."""


def banner_proves(printed: str | None, elf_sha256: str | None) -> bool:
    """Whether the first hex digits of an ELF file's SHA-256, as a banner shows them, are those of this one."""
    if printed is None or elf_sha256 is None or len(printed) < LEAST_DIGITS:
        return False
    # All zero: the build did not fill it in, and it proves nothing.
    return bool(printed.strip("0")) and elf_sha256.startswith(printed)


@dataclass(frozen=True)
class Firmware:
    """The firmware that is proved to be on a slot's board."""

    identity: FirmwareIdentity
    flash: FlashFinished
    """How it got there, or how it is known to have been there already."""

    @property
    def version(self) -> str | None:
        """Version of the application that boots, as it prints it; None when the images do not say."""
        return self.identity.version

    @property
    def elf_sha256(self) -> str | None:
        """Hex SHA-256 of the ELF file of the application that boots; None when the images do not say."""
        return self.identity.elf_sha256


class HutSlot:
    """A slot whose lock is held and whose port is open.

    Used from one thread; the console is read by another one all the time.
    """

    def __init__(
        self,
        slot: Slot,
        link: Link,
        reader: PortReader,
        console: Console,
        power: Relay,
        emit: Callable[[Event], None],
        progress: Progress,
        memory: FlashMemory | None = None,
        cache: Path | None = None,
    ) -> None:
        """`memory` is what is remembered of the slot, `cache` the folder of compressed images."""
        self.config = slot
        """The slot as slots.toml describes it."""
        self.console = console
        self.power = power
        self.firmware: Firmware | None = None
        """What the last flash proved to be on the board; None when nothing is known."""
        self.facts: ChipFacts | None = None
        """What the chip's loader said about itself; None until a flash or `identify` asked it."""
        self.flash_mode = "auto"
        """How `flash` goes about it: auto, verify, always or never; see `--hut-flash`."""
        self._memory = memory or FlashMemory()
        self._cache = cache
        self._link = link
        self._reader = reader
        self._emit = emit
        self._progress = progress
        self._banner_proves: str | None = None
        self._proving_life = (0, 0)
        """The board's life (see `_life`) of which that banner is."""

    def __repr__(self) -> str:
        return f"<HutSlot {self.id} ({self.chip})>"

    @property
    def id(self) -> str:
        """The slot's id, e.g. `hut-01`."""
        return self.config.id

    @property
    def chip(self) -> str:
        """esptool's name of the chip, as configured."""
        chip: str = self.config.chip
        return chip

    @property
    def features(self) -> frozenset[str]:
        """What this board can do, as configured."""
        return frozenset(self.config.features)

    def reset(self) -> None:
        """Restart the board through EN. Raises PortError when the port has no reset lines or is away."""
        self._need_port()
        reset_to_app(self._link, self.config.reset, self.console.mark_reset)
        self._emit(BoardReset(slot=self.id))

    def boot(self, timeout: float = 10.0) -> Boot:
        """Restart the board through EN and follow it until its application runs.

        Raises what `Console.expect_boot` raises.
        """
        self.reset()
        return self.expect_boot(timeout)

    def cold_boot(self, timeout: float = 10.0, off_s: float | None = None) -> Boot:
        """Cycle the board's power and follow it until its application runs.

        Where the USB adapter hangs on the switched supply, the first lines are lost while it comes back; so there the
        board is restarted through EN once the port is back, which the chip cannot tell from power coming.

        Raises:
            RelayError: the power cycle failed.
            PortError: the port did not come back.
            HutError: what `Console.expect_boot` raises.
        """
        self._need_port()
        bus_powered = self.config.adapter == "bus-powered"
        proof = PowerProof(self.console, self._reader.heard, self.wait_for_port, bus_powered=bus_powered)
        result = self.power.cycle(off_s=off_s, on_s=0.0, while_off=proof.while_off, prove=proof.after_on)
        if not result.ok:
            raise RelayError(f"power cycle of {self.id}: {result.status}: {result.reason}")
        if proof.port_error is not None:
            raise proof.port_error
        if bus_powered:
            self.reset()
        return self.expect_boot(timeout)

    def expect_boot(self, timeout: float = 10.0) -> Boot:
        """Like `Console.expect_boot`, and the boot is recorded, good or bad."""
        _, losses = self._life()
        try:
            boot = self.console.expect_boot(timeout)
        except HutError as error:
            self._emit(self._booted(self.console.latest_boot(), str(error).splitlines()[0]))
            raise
        self._emit(self._booted(boot, None))
        self._proving_life = boot.number, losses
        if self.firmware and banner_proves(boot.elf_sha256, self.firmware.elf_sha256):
            self._banner_proves = self.firmware.identity.content_sha256
        else:
            self._banner_proves = None
        return boot

    def wait_for_port(self) -> None:
        """Wait until the port is back after power came. Raises PortError after the slot's `port_timeout_s`."""
        deadline = time.monotonic() + self.config.port_timeout_s
        heard = self._reader.heard
        with heard.changed:
            while heard.lost_s is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._reader.port_error()
                heard.changed.wait(left)

    def identify(self) -> ChipFacts:
        """Ask the chip's loader who it is; the board is in its loader afterwards. Raises FlashError."""
        self._need_port()
        self._reader.pause()
        try:
            facts = identify(self._link, self.config.reset, self.chip, self.config.flash_baud, self._memory)
        finally:
            self._reader.resume()
        self._know(facts)
        return facts

    def flash(self, images: ImageSet) -> Firmware:
        """Make the board hold `images`; what is proved to be there is not written again. The board is then restarted.

        Raises:
            FirmwareError: the images do not fit this slot.
            FlashError: all tries failed, or nothing may be written and the firmware is not proved to be there.
        """
        identity = describe(images)
        proved = self._banner_proves == identity.content_sha256 and self._proving_life == self._life()
        if self.firmware and proved and self.flash_mode in ("auto", "never"):
            return self._proved(images, identity, "it booted since it was flashed", 0.0)
        start = time.monotonic()
        self.firmware = self._banner_proves = None
        plan = self._plan(images)
        if self.flash_mode == "never" or (self.flash_mode == "auto" and plan.identical):
            self._need_port()
            if self._boots_as(identity):
                return self._proved(images, identity, plan.why, time.monotonic() - start)
            self._memory.distrust()
            plan = self._plan(images)
            if self.flash_mode == "never":
                raise FlashError(
                    f"{self.id} does not boot {images.source} {identity.version or ''}, as far as its banner tells, "
                    "and --hut-flash=never forbids to write it"
                )
        for attempt in range(1, FLASH_TRIES + 1):
            try:
                self._need_port()
                outcome = self._flash_once(plan)
            except (FlashError, PortError) as error:
                self._memory.distrust()
                self._emit(
                    FlashFailed(slot=self.id, firmware=images.source, attempt=attempt, step="flash", reason=str(error))
                )
                self._progress.line(f"flash try {attempt} of {FLASH_TRIES} failed: {error}")
                if isinstance(error, FlashRefused):
                    raise
                if attempt == FLASH_TRIES:
                    self._give_up(error)
                if attempt >= CYCLE_AFTER_FAILURES:
                    self._cycle_to_recover()
                plan = self._plan(images)
            else:
                return self._flashed(images, identity, plan, outcome, attempt, time.monotonic() - start)
        raise AssertionError("the last try either returned or raised")

    def _life(self) -> tuple[int, int]:
        """Return what differs as soon as the board started anew, or was away for a while and can have done so."""
        self._reader.catch_up()
        heard = self._reader.heard
        with heard.changed:
            boot = heard.log.current
            return (boot.number if boot else 0), heard.losses

    def _plan(self, images: ImageSet) -> FlashPlan:
        known = self._memory.sectors if self._memory.trusted and self.flash_mode == "auto" else None
        plan = plan_flash(images.images, known, write_all=self.flash_mode == "always")
        sizes = [None if spans is None else total(spans) for spans in plan.missing]
        self._emit(
            FlashPlanned(
                slot=self.id,
                firmware=images.source,
                mode=self.flash_mode,
                why=plan.why,
                image_bytes=images.size,
                bytes_to_write=None if None in sizes else sum(size or 0 for size in sizes),
            )
        )
        return plan

    def _boots_as(self, identity: FirmwareIdentity) -> bool:
        """Restart the board and see whether it says that it runs this firmware."""
        if not (identity.elf_sha256 or "").strip("0"):
            return False
        self.reset()
        try:
            printed = self.console.expect_boot(PROVING_BOOT_S, again=True).elf_sha256
        except PortError:
            raise
        except HutError as error:
            self._progress.line(f"not what it was: {str(error).splitlines()[0]}")
            return False
        return banner_proves(printed, identity.elf_sha256)

    def _proved(self, images: ImageSet, identity: FirmwareIdentity, why: str, seconds: float) -> Firmware:
        finished = FlashFinished(
            slot=self.id,
            firmware=images.source,
            content_sha256=identity.content_sha256,
            app_version=identity.version,
            elf_sha256=identity.elf_sha256,
            written=False,
            proof=PROVED_BY_BANNER,
            image_bytes=images.size,
            bytes_written=0,
            baud=self.config.console_baud,
            attempts=0,
            seconds=round(seconds, 3),
            bytes_saved=images.size,
            plan=why,
            commit=images.commit,
        )
        self._emit(finished)
        self.firmware = Firmware(identity, finished)
        return self.firmware

    def _flash_once(self, plan: FlashPlan) -> FlashOutcome:
        config = self.config
        self._reader.pause()
        try:
            return flash_images(
                self._link, config.reset, self.chip, config.flash_baud, plan, self._memory, self._cache, self._progress
            )
        finally:
            self._reader.resume()

    def _flashed(
        self,
        images: ImageSet,
        identity: FirmwareIdentity,
        plan: FlashPlan,
        outcome: FlashOutcome,
        attempt: int,
        seconds: float,
    ) -> Firmware:
        self._know(outcome.facts)
        finished = FlashFinished(
            slot=self.id,
            firmware=images.source,
            content_sha256=identity.content_sha256,
            app_version=identity.version,
            elf_sha256=identity.elf_sha256,
            written=bool(outcome.written),
            proof=outcome.proof,
            image_bytes=images.size,
            bytes_written=outcome.bytes_written,
            baud=outcome.baud,
            attempts=attempt,
            seconds=round(seconds, 3),
            commit=images.commit,
            bytes_saved=max(0, images.size - outcome.bytes_written),
            bytes_sent=outcome.bytes_sent,
            plan=plan.why,
        )
        self._emit(finished)
        self.firmware = Firmware(identity, finished)
        verb = f"wrote {outcome.bytes_written // 1024} KiB" if outcome.written else "already on the board"
        self._progress.line(f"{images.source} {identity.version or ''}: {verb}, verified, {seconds:.1f} s")
        self.reset()
        return self.firmware

    def _know(self, facts: ChipFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self._emit(
                BoardIdentified(
                    slot=self.id, chip=facts.chip, revision=facts.revision, mac=facts.mac, flash_size=facts.flash_size
                )
            )

    def _cycle_to_recover(self) -> None:
        result = self.power.cycle()
        self._progress.line(f"power cycle before the next flash try: {result.status} {result.reason}".rstrip())

    def _give_up(self, error: HutError) -> NoReturn:
        raise FlashError(f"{self.id} could not be flashed in {FLASH_TRIES} tries; the last one: {error}") from error

    def _need_port(self) -> None:
        self.wait_for_port()

    def _booted(self, boot: Boot | None, failure: str | None) -> Booted:
        if boot is None:
            boot = Boot(number=0)
        seconds = boot.app_s - boot.reset_s if boot.app_s is not None and boot.reset_s is not None else None
        return Booted(
            slot=self.id,
            reset_reason=boot.reset_reason,
            boot_mode=boot.boot_mode_text,
            bootloader_version=boot.bootloader_version,
            partition=boot.partition,
            app_version=boot.app_version,
            elf_sha256=boot.elf_sha256,
            seconds_to_app=round(seconds, 3) if seconds is not None else None,
            failure=failure,
        )
