"""What an image says about itself: the application descriptor, and the bootloader's descriptor or strings.

Sources: Espressif's documents "App Image Format" (esp_app_desc_t) and "Bootloader Image Format"
(esp_bootloader_desc_t). Bootloaders older than ESP-IDF 5.2 have no descriptor; their version and compile time are
found in the strings they print.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pytest_hut.errors import FirmwareError

_APP = struct.Struct("<II8x32s32s16s16s32s32s80x")
_APP_MAGIC = 0xABCD5432
APP_DESCRIPTOR_SIZE = _APP.size
"""Bytes of esp_app_desc_t, 256."""

_BOOTLOADER = struct.Struct("<BxxxI32s24s16x")
_BOOTLOADER_MAGIC = 0x50
BOOTLOADER_DESCRIPTOR_SIZE = _BOOTLOADER.size
"""Bytes of esp_bootloader_desc_t, 80."""

_VERSION_FORMAT = b"ESP-IDF %s 2nd stage bootloader"
_COMPILE_TIME_FORMAT = re.compile(rb"compile time ([ -~]{1,40})")
_DATE_AND_TIME = re.compile(rb"[A-Z][a-z]{2} [ \d]\d \d{4} \d\d:\d\d:\d\d")
_QUAD_IO_TEXT = b"Enabling default flash chip QIO"
_LAST_PRINTABLE = re.compile(rb"([ -~]{1,31})\0+[^\0]*\Z")


def idf_release(version: str) -> tuple[int, int]:
    """Return (major, minor) of an ESP-IDF version such as `v4.3.5-dirty`; (0, 0) where none can be read."""
    numbers = re.search(r"(\d{1,3})\.(\d{1,3})", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


@dataclass(frozen=True)
class AppDescription:
    """esp_app_desc_t. `elf_sha256` is 64 lower-case hex digits; the texts are at most 31 bytes (time, date: 15)."""

    version: str
    project_name: str
    time: str
    date: str
    idf_version: str
    elf_sha256: str
    secure_version: int = 0

    def pack(self) -> bytes:
        """Return the 256 bytes of the descriptor; a text that does not fit, or a bad hash, raises FirmwareError."""
        if not re.fullmatch(r"[0-9a-f]{64}", self.elf_sha256):
            raise FirmwareError(f"{self.elf_sha256!r} is no SHA-256 of 64 lower-case hex digits.")
        texts = (self.version, self.project_name, self.time, self.date, self.idf_version)
        fields = [_c_string(text, room) for text, room in zip(texts, (32, 32, 16, 16, 32), strict=True)]
        return _APP.pack(_APP_MAGIC, self.secure_version, *fields, bytes.fromhex(self.elf_sha256))

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> AppDescription | None:
        """Read a descriptor from the start of `data`; None when there is none."""
        if len(data) < _APP.size:
            return None
        magic, secure_version, version, name, time, date, idf, elf = _APP.unpack_from(data)
        if magic != _APP_MAGIC:
            return None
        return cls(_text(version), _text(name), _text(time), _text(date), _text(idf), elf.hex(), secure_version)


@dataclass(frozen=True)
class BootloaderDescription:
    """What a second-stage bootloader is: the ESP-IDF it came from and when it was compiled."""

    idf_version: str
    compile_time: str
    """`HH:MM:SS` (ESP-IDF 4) or `Mmm DD YYYY HH:MM:SS` (5)."""
    quad_io: bool
    """It was configured to switch the flash to quad I/O."""
    version: int = 1
    """The project's own bootloader version; only a descriptor carries one."""

    def pack(self) -> bytes:
        """Return the 80 bytes of esp_bootloader_desc_t (it has no place for `quad_io`)."""
        idf = _c_string(self.idf_version, 32)
        return _BOOTLOADER.pack(_BOOTLOADER_MAGIC, self.version, idf, _c_string(self.compile_time, 24))

    @classmethod
    def find(cls, first_segment: bytes | memoryview, image: bytes) -> BootloaderDescription | None:
        """Read the descriptor at the start of the first segment, or else the strings in the image; None if neither."""
        quad_io = _QUAD_IO_TEXT in image
        if len(first_segment) >= _BOOTLOADER.size and first_segment[0] == _BOOTLOADER_MAGIC:
            _, version, idf, compiled = _BOOTLOADER.unpack_from(first_segment)
            return cls(_text(idf), _text(compiled), quad_io, version)
        return _from_strings(image, quad_io)


def _from_strings(image: bytes, quad_io: bool) -> BootloaderDescription | None:
    """The compiler puts the version right before the format string that prints it."""
    at = image.find(_VERSION_FORMAT)
    if at < 0:
        return None
    version = _LAST_PRINTABLE.search(image[max(0, at - 80) : at])
    compiled = _COMPILE_TIME_FORMAT.search(image)
    text = compiled[1] if compiled else b""
    if text == b"%s":
        separate = _DATE_AND_TIME.search(image)
        text = separate[0] if separate else b""
    return BootloaderDescription(version[1].decode("ascii") if version else "", text.decode("ascii"), quad_io)


def bootloader_strings(description: BootloaderDescription) -> bytes:
    """Return the read-only data by which a bootloader without a descriptor is recognised (see `find`)."""
    strings = [
        description.idf_version,
        f"I (%u) %s: {_VERSION_FORMAT.decode()}",
        f"I (%u) %s: compile time {description.compile_time}",
    ]
    if description.quad_io:
        strings.append(f"I (%u) %s: {_QUAD_IO_TEXT.decode()}")
    return b"\0" + b"".join(text.encode("ascii") + b"\0" for text in strings)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _c_string(text: str, room: int) -> bytes:
    data = text.encode("utf-8")
    if len(data) >= room:
        raise FirmwareError(f"The text {text!r} does not fit into the {room - 1} bytes the descriptor has for it.")
    return data
