"""The words of ROM, bootloader and ESP-IDF that the boot log parser knows, from ESP-IDF 3.3 to 5.5.

Sources: ESP-IDF's "Fatal Errors", "Bootloader" and "Partition Tables" guides, the chips' technical reference
manuals (reset reasons), and recorded logs.
"""

from __future__ import annotations

import re

from pytest_hut.board.bootlog_model import ResetCategory

NEEDLES: tuple[bytes, ...] = (
    b"rst:0x",
    b"Guru Meditation Error",
    b"abort() was called",
    b"assert failed:",
    b'assertion "',
    b"ESP_ERROR_CHECK failed",
    b"terminate called",
    b"rownout detector was",
    b"watchdog got triggered",
    b"Stack smashing protect",
    b"stack overflow in task",
    b"Panic handler entered",
    b"2nd stage bootloader",
    b"Application information:",
    b"invalid header: 0x",
    b"csum err:0x",
    b"flash read err,",
)
"""Every line that means something while the application just runs contains one of these."""

_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b")
_LEADING_NOISE = re.compile(r"^[^\x20-\x7e]+")

RESET = re.compile(
    r"rst:0x(?P<code>[0-9a-fA-F]{1,2}) \((?P<reason>[A-Z0-9_ ]*)\)"
    r"(?:,boot:0x(?P<mode>[0-9a-fA-F]{1,8}) \((?P<text>.*)\))?"
)
LOG_LINE = re.compile(r"([EWIDV]) \([\d:.\- ]+\) ([A-Za-z][\w.\- ]{0,30}): (.*)")
"""Level, tag, message; anywhere in the line, since another core's half line may stand before it."""
EARLY_LOG_LINE = re.compile(r"([EWIDV]) ([A-Za-z][\w.\-]{0,30}): (.*)")
"""The form without a time stamp that the earliest messages have."""

BOOTLOADER_TAG = re.compile(
    r"boot|boot\.\w+|boot_comm|bootloader\w*|esp_image|flash_parts|qio_mode|secure_boot\w*|flash_encrypt"
)
STARTUP_TAG = re.compile(
    r"cpu_start|app_init|efuse\w*|\w*psram\w*|spiram|clk|rtc\w*|pmu\w*|MSPI[ \w]*|mspi\w*|mmu\w*|\w*memprot\w*"
    r"|cache\w*|flash_\w+|spi_flash|octal_\w+|esp_core_dump\w*|sleep\w*"
)
"""Tags of the application's start-up code, which may speak before the application's banner."""
STARTUP_TEXT = re.compile(r"Re-enable cpu cache|\bcpu_start: |\bspiram: ")
"""Start-up lines without, or with a torn, log prefix."""

ENTRY = re.compile(r"entry 0x[0-9a-fA-F]+$")
SAVED_PC = re.compile(r"Saved PC:0x([0-9a-fA-F]{1,8})")
INVALID_HEADER = re.compile(r"invalid header: (0x[0-9a-fA-F]+)")
FLASH_READ = re.compile(r"flash read err, \d+")
BOOTLOADER_DAMAGED = re.compile(r"csum err:0x[0-9a-fA-F]+!=0x[0-9a-fA-F]+|ets_loader\.c \d+")

BOOTLOADER_BANNER = re.compile(r"ESP-IDF (\S+) 2nd stage bootloader")
CHIP_REVISION = re.compile(r"chip revision: (\S+)")
PARTITION = re.compile(
    r" ?\d+ (?P<label>.{16}) .{16} (?P<type>[0-9a-f]{2}) (?P<subtype>[0-9a-f]{2})"
    r" (?P<offset>[0-9a-f]{8}) (?P<size>[0-9a-f]{8})"
)
SEGMENT_0 = re.compile(r"segment 0: paddr=(?:0x)?([0-9a-f]{8})")
IMAGE_AT = re.compile(r"image at (0x[0-9a-f]+)")
NOT_BOOTABLE = re.compile(
    r"(?P<name>Factory app|Test app|OTA app|App) partition(?: slot (?P<slot>\d+))? is not bootable"
)
LOADED_APP = re.compile(r"Loaded app from partition at offset (0x[0-9a-fA-F]+)")
CHIP_REVISION_REFUSED = re.compile(r"Image requires (?:chip|efuse blk) rev|Can't run|can't run on lower chip revision")
WRONG_CHIP = re.compile(r"mismatch chip ID", re.IGNORECASE)

APP_INFO = re.compile(r"(Project name|App version|Compile time|ELF file SHA256|ESP-IDF): +(.*?)(?:\.\.\.)? *$")

_BY_CODE = {
    0x01: ResetCategory.POWER_ON,
    0x03: ResetCategory.SOFTWARE,
    0x05: ResetCategory.DEEP_SLEEP,
    0x07: ResetCategory.WATCHDOG,
    0x08: ResetCategory.WATCHDOG,
    0x09: ResetCategory.WATCHDOG,
    0x0B: ResetCategory.WATCHDOG,
    0x0C: ResetCategory.SOFTWARE,
    0x0D: ResetCategory.WATCHDOG,
    0x0F: ResetCategory.BROWN_OUT,
    0x10: ResetCategory.WATCHDOG,
}
_SOFTWARE_WORD = re.compile(r"(?:^|_)SW(?:_|$)")


def clean(line: bytes) -> str:
    """Return a line's text without colour codes, surrounding white space and leading unprintable noise."""
    text = _ANSI.sub(b"", line).decode("utf-8", "replace").strip()
    return _LEADING_NOISE.sub("", text).lstrip()


def readable(text: str) -> bool:
    """Whether a line is text rather than line noise."""
    good = sum(" " <= char <= "~" for char in text)
    return good >= 2 and good >= 0.75 * len(text)


def split_log_line(text: str) -> tuple[str, str, str] | None:
    """Return (level, tag, message) of an ESP-IDF log line, None for any other text."""
    match = LOG_LINE.search(text) or EARLY_LOG_LINE.match(text)
    return (match[1], match[2], match[3]) if match else None


def reset_category(code: int, reason: str) -> ResetCategory:
    """Sort a ROM's reset reason. The word decides; the code, where the word is not known.

    The words differ by chip (`RTCWDT_RTC_RESET`, `RTCWDT_RTC_RST`, `LP_WDT_SYS`), the codes that matter do not.
    """
    word = reason.upper()
    if "BROWN" in word or "_BOD" in word:
        return ResetCategory.BROWN_OUT
    if "WDT" in word:
        return ResetCategory.WATCHDOG
    if "POWERON" in word or "POWER_ON" in word:
        return ResetCategory.POWER_ON
    if "SLEEP" in word:
        return ResetCategory.DEEP_SLEEP
    if _SOFTWARE_WORD.search(word):
        return ResetCategory.SOFTWARE
    return _BY_CODE.get(code, ResetCategory.OTHER)


def is_download_mode(boot_text: str) -> bool:
    """Whether the text behind `boot:0x..` names a boot over UART or USB instead of from flash."""
    return "DOWNLOAD" in boot_text or "UART_BOOT" in boot_text
