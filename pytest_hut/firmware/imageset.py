"""What gets flashed: images with their offsets, as plain data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class FlashImage:
    """One contiguous piece of flash content."""

    name: str
    offset: int
    """Bytes from the start of the flash."""
    data: bytes

    @property
    def end(self) -> int:
        """First flash address behind this image."""
        return self.offset + len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the content."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """All images of one firmware, sorted by offset, none overlapping (see `sources.load_firmware`)."""

    images: tuple[FlashImage, ...]
    source: str
    """Where it came from, for people: a path, or `demo`."""
    chip: str | None = None
    """esptool's chip name, None where the source does not say."""
    flash_mode: str | None = None
    """`dio`, `qio`, ...; None keeps what the bootloader image says. The same for the two below."""
    flash_freq: str | None = None
    flash_size: str | None = None
    commit: str | None = None
    """The git commit it is known to be built from, None where nothing vouches for that."""

    @cached_property
    def content_sha256(self) -> str:
        """Hex SHA-256 over all offsets and contents: equal content, equal identity, whatever the path."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.offset:#x} {image.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Sum of the image sizes in bytes."""
        return sum(len(image.data) for image in self.images)

    def at(self, offset: int) -> FlashImage | None:
        """Return the image that starts at `offset`."""
        return next((image for image in self.images if image.offset == offset), None)
