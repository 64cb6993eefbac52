"""What has to be written so that a flash holds certain images: pure functions, made before the board is touched.

Flash is erased in sectors of 4 KiB, fastest in blocks of 64 KiB; those are the steps in which contents are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_hut.firmware.imageset import FlashImage

SECTOR = 0x1000
BLOCK = 0x10000

SAMPLES = 8
"""So many sectors, spread over a region, are looked at first: if all differ, the rest is taken to differ as well."""

MANY_BLOCKS = 0.5
"""Above this share of differing blocks, looking for equal sectors inside them costs more than it saves."""

ERASED = b"\xff"

Digests = Mapping[int, str]
"""Digest of what a sector holds, by the sector's number: see `sector_digests`."""


@dataclass(frozen=True)
class Region:
    """Flash content that is written and verified as one: an image, or several that share a sector."""

    name: str
    offset: int
    """Bytes from the start of the flash."""
    data: bytes

    @property
    def end(self) -> int:
        """First flash address behind it."""
        return self.offset + len(self.data)

    @property
    def whole(self) -> Span:
        """All of it."""
        return Span(self.offset, self.end)

    def content(self, span: Span) -> bytes:
        """Return what belongs into `span`, which is inside this region."""
        return self.data[span.start - self.offset : span.end - self.offset]


@dataclass(frozen=True, order=True)
class Span:
    """A range of flash addresses, `end` not included."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class FlashPlan:
    """What is known before the board is touched: `missing` of a region is None where only the chip can tell."""

    regions: tuple[Region, ...]
    missing: tuple[tuple[Span, ...] | None, ...]
    why: str
    """One clause for people."""

    @property
    def identical(self) -> bool:
        """Everything is known to be there already."""
        return all(spans == () for spans in self.missing)


def regions_of(images: Iterable[FlashImage]) -> tuple[Region, ...]:
    """Return what is written: images in order, those that share a sector joined, since erasing one hits the other."""
    regions: list[Region] = []
    for image in images:
        last = regions[-1] if regions else None
        if last is not None and (last.end - 1) // SECTOR >= image.offset // SECTOR:
            joined = last.data + ERASED * (image.offset - last.end) + image.data
            regions[-1] = Region(f"{last.name}+{image.name}", last.offset, joined)
        elif image.data:
            regions.append(Region(image.name, image.offset, image.data))
    return tuple(regions)


def sector_digests(region: Region) -> dict[int, str]:
    """Return a digest of what `region` puts into each sector it touches: where in the sector, and which bytes."""
    return {
        span.start // SECTOR: hashlib.sha256(b"%x " % (span.start % SECTOR) + region.content(span)).hexdigest()[:32]
        for span in pieces(region.whole, SECTOR)
    }


def plan_flash(images: Iterable[FlashImage], known: Digests | None, *, write_all: bool = False) -> FlashPlan:
    """Compare what must be there with what is remembered of the flash.

    Args:
        known: what the flash is trusted to hold; None when nothing is.
        write_all: do not compare.
    """
    regions = regions_of(images)
    if write_all:
        return FlashPlan(regions, tuple((region.whole,) for region in regions), "everything is to be written")
    if known is None:
        return FlashPlan(regions, (None,) * len(regions), "nothing is known of the flash")
    missing = tuple(_differing(region, known) for region in regions)
    return FlashPlan(regions, missing, "what the flash holds is remembered")


def _differing(region: Region, known: Digests) -> tuple[Span, ...] | None:
    wanted = sector_digests(region)
    if not wanted.keys() <= known.keys():
        return None
    return join(
        span for span in pieces(region.whole, SECTOR) if known.get(span.start // SECTOR) != wanted[span.start // SECTOR]
    )


def find_differences(region: Region, holds: Callable[[Span], bool]) -> tuple[Span, ...]:
    """Ask the chip, in as few questions as it takes, which parts of `region` it does not hold.

    Args:
        holds: whether the flash has exactly the region's content in a span, by the chip's own MD5.
    """
    sectors = list(pieces(region.whole, SECTOR))
    if len(sectors) > 2 * SAMPLES:
        samples = [sectors[len(sectors) * number // SAMPLES] for number in range(SAMPLES)]
        # Erased stretches are the same in any firmware and say nothing.
        telling = [span for span in samples if region.content(span).strip(ERASED)]
        if telling and not any(holds(span) for span in telling):
            return (region.whole,)
    if holds(region.whole):
        return ()
    blocks = list(pieces(region.whole, BLOCK))
    missing = [block for block in blocks if len(blocks) == 1 or not holds(block)]
    if len(missing) <= max(1, MANY_BLOCKS * len(blocks)):
        missing = [
            sector for block in missing for sector in pieces(block, SECTOR) if block.size <= SECTOR or not holds(sector)
        ]
    # A chip whose sums contradict each other is not believed.
    return join(missing) or (region.whole,)


def pieces(span: Span, step: int) -> Iterator[Span]:
    """Cut a span at all multiples of `step`."""
    start = span.start
    while start < span.end:
        end = min(span.end, start - start % step + step)
        yield Span(start, end)
        start = end


def join(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join neighbours; the spans come in order."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return tuple(joined)


def total(spans: Sequence[Span]) -> int:
    """Return the bytes in all spans."""
    return sum(span.size for span in spans)
