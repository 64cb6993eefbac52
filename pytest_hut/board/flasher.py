"""Make a flash hold what a plan says, with as little written as the chip's own MD5 sums allow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_hut.board.flash_memory import FlashMemory
from pytest_hut.board.flash_plan import FlashPlan, Region, Span, find_differences, regions_of, sector_digests, total
from pytest_hut.board.loader_session import ChipFacts, LoaderSession, loader_session, padded
from pytest_hut.board.packets import loader_class
from pytest_hut.board.progress import Progress
from pytest_hut.errors import FlashError
from pytest_hut.firmware.compressed import compressed
from pytest_hut.firmware.imageset import FlashImage
from pytest_hut.link.base import Link

PROVED_BY_MD5 = "MD5 computed by the chip"
PROVED_BY_ACKNOWLEDGEMENT = "acknowledged by the ROM; in secure download mode it computes no MD5"


class Flash(Protocol):
    """What is needed of a chip; `LoaderSession` is one."""

    @property
    def provable(self) -> bool:
        """Whether `holds` can be asked."""

    def holds(self, region: Region, span: Span) -> bool:
        """Whether the flash has the region's content in `span`."""

    def write(self, region: Region, span: Span, cache: Path | None, progress: Callable[[int, int], None]) -> None:
        """Write the region's content in `span`."""


@dataclass(frozen=True)
class FlashOutcome:
    """What one successful flash did."""

    facts: ChipFacts
    written: tuple[str, ...]
    """Names of the regions in which something was written; all others were there already."""
    bytes_written: int
    """Bytes of flash content."""
    bytes_sent: int
    """Bytes to the chip over the wire, the loader's stub included."""
    baud: int
    proof: str


def flash_images(
    link: Link,
    wiring: str,
    chip: str,
    baud: int,
    plan: FlashPlan,
    memory: FlashMemory,
    cache: Path | None,
    progress: Progress,
) -> FlashOutcome:
    """Make the flash hold what `plan` is for.

    The console reader must be paused: the port is the loader's until this returns. `memory` learns what is on the
    flash then; `cache` is the folder of compressed images, None for none.

    Raises:
        FlashError: with the step that failed and why.
        PortError: the port went away.
    """
    _get_ready_meanwhile(plan, chip, cache)
    flash_end = max((region.end for region in plan.regions), default=0)
    with loader_session(link, wiring, chip, baud, memory, flash_end) as session:
        facts = session.facts
        _require_room(plan, facts)
        written: list[str] = []
        count = 0
        for region, missing in zip(plan.regions, plan.missing, strict=True):
            spans = bring(session, region, missing, memory, cache, progress)
            count += total(spans)
            written += [region.name] if spans else []
        if session.provable:
            memory.learn({number: text for region in plan.regions for number, text in sector_digests(region).items()})
        return FlashOutcome(
            facts,
            tuple(written),
            count,
            session.bytes_sent,
            session.baud,
            PROVED_BY_MD5 if session.provable else PROVED_BY_ACKNOWLEDGEMENT,
        )


def bring(
    flash: Flash,
    region: Region,
    missing: tuple[Span, ...] | None,
    memory: FlashMemory,
    cache: Path | None,
    progress: Progress,
) -> tuple[Span, ...]:
    """Make the flash hold one region and have the chip prove it. Returns what was written.

    Args:
        missing: what a plan takes to be missing; None where only the chip can tell. Whatever it says, nothing but the
            chip's MD5 of the whole region ends this.

    Raises:
        FlashError: the region is not there even after all of it was written.
    """

    def holds(span: Span) -> bool:
        return flash.holds(region, span)

    def write(spans: tuple[Span, ...]) -> None:
        memory.overwrite(region)
        size = total(spans)
        part = "" if size == len(region.data) else f"{size // 1024 or 1} KiB of "
        what = f"writing {part}{region.name} ({-(-len(region.data) // 1024)} KiB at {region.offset:#x})"
        progress.line(what)
        for span in spans:
            flash.write(region, span, cache, lambda done, of: progress.bar(what, done, of))

    if not flash.provable:
        write((region.whole,))
        return (region.whole,)
    if missing is None or (not missing and not holds(region.whole)):
        missing = find_differences(region, holds)
        if not missing:
            return ()
    elif not missing:
        return ()
    write(missing)
    if holds(region.whole):
        return missing
    if missing != (region.whole,):
        write((region.whole,))
        if holds(region.whole):
            return (region.whole,)
    raise FlashError(f"{region.name} was written, but the chip's MD5 of it is wrong")


def identify(link: Link, wiring: str, chip: str, baud: int, memory: FlashMemory) -> ChipFacts:
    """Ask the chip's loader who it is; the chip stays in its loader. Raises FlashError, PortError."""
    with loader_session(link, wiring, chip, baud, memory) as session:
        return session.facts


def _require_room(plan: FlashPlan, facts: ChipFacts) -> None:
    last = plan.regions[-1] if plan.regions else None
    if last is not None and facts.flash_size and last.end > facts.flash_size:
        raise FlashError(
            f"{last.name} ends at {last.end:#x}, but the flash of this board has only {facts.flash_size // 1024} KiB"
        )


def get_ready(images: Iterable[FlashImage], chip: str, cache: Path | None) -> None:
    """Do what writing these images takes and no board is needed for: load esptool, compress."""
    loader_class(chip)
    for region in regions_of(images):
        compressed(padded(region.data), cache)


def _get_ready_meanwhile(plan: FlashPlan, chip: str, cache: Path | None) -> None:
    """Get ready for what may have to be written while the board restarts."""
    wanted = [
        padded(region.data)
        for region, missing in zip(plan.regions, plan.missing, strict=True)
        if missing is None or missing == (region.whole,)
    ]

    def work() -> None:
        loader_class(chip)
        for data in wanted:
            compressed(data, cache)

    threading.Thread(target=work, name="hut-get-ready", daemon=True).start()


__all__ = ["ChipFacts", "FlashOutcome", "LoaderSession", "bring", "flash_images", "get_ready", "identify"]
