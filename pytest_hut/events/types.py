"""Typed events. Reports, summaries and pictures are functions of these and of nothing else.

Times are UTC in ISO 8601 with milliseconds; durations are seconds; hashes are hex.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar


def utc_now() -> str:
    """Return the time as `2026-02-13T21:57:05.123Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened. `slot` is empty for what concerns the session as a whole."""

    slot: str = ""
    utc: str = field(default_factory=utc_now)
    kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping with the event's name first."""
        return {"event": type(self).__name__, **asdict(self)}


def event_from_json(data: dict[str, Any]) -> Event | None:
    """Return the event that `to_json` described, None for a kind this version does not know.

    Raises:
        TypeError: a field the kind needs is missing.
    """
    kind = Event.kinds.get(str(data.get("event")))
    if kind is None:
        return None
    known = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in data.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class SessionStarted(Event):
    """The controller of a session (or the only process) began."""

    job_id: str
    lane: str
    commit_sha: str
    lock_key: str
    slots: list[str]
    virtual: bool
    pid: int
    stamp: str = ""
    """The UTC stamp in the file names of this job."""
    thread_ref: str | None = None
    hostname: str = ""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionFinished(Event):
    """The controller ended its run loop; `exit_code` is the process's."""

    exit_code: int
    cause: str = ""
    """`interrupt`, `timeout` or `cancel` where the session did not end by itself."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TestStarted(Event):
    """One test began, or began again. Without a `TestFinished` behind it, the session ended while it ran."""

    __test__: ClassVar[bool] = False  # No test class, whatever pytest thinks of its name.

    node_id: str


@dataclass(frozen=True, kw_only=True)
class TestFinished(Event):
    """One test ended. `kind` says whose fault a failure is."""

    __test__: ClassVar[bool] = False  # No test class, whatever pytest thinks of its name.

    node_id: str
    hw_id: str | None
    outcome: str
    """passed, failed, error, skipped, xfailed, xpassed or crashed."""
    kind: str | None
    """product, infrastructure, or None where nothing failed."""
    duration_s: float
    message: str = ""
    worker: str = ""
    evidence: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SlotLeased(Event):
    """The slot's lock was taken."""

    lock: str
    waited_s: float
    pid: int
    port: str
    chip: str
    virtual: bool


@dataclass(frozen=True, kw_only=True)
class SlotReleased(Event):
    """The slot's lock was given back."""


@dataclass(frozen=True, kw_only=True)
class PortLost(Event):
    """The serial port went away while it was open."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class PortReturned(Event):
    """The serial port is open again."""

    after_s: float


@dataclass(frozen=True, kw_only=True)
class BoardIdentified(Event):
    """The loader told who it is."""

    chip: str
    revision: str
    mac: str
    flash_size: int


@dataclass(frozen=True, kw_only=True)
class FlashPlanned(Event):
    """What is to be done so that the flash holds the firmware, as known before the board is touched."""

    firmware: str
    mode: str
    """auto, verify, always or never, as `--hut-flash` says."""
    why: str
    image_bytes: int
    bytes_to_write: int | None
    """None where only the chip can tell."""


@dataclass(frozen=True, kw_only=True)
class FlashFinished(Event):
    """The firmware is on the board; `written` is False where it was there already, `proof` says how that is known."""

    firmware: str
    content_sha256: str
    app_version: str | None
    elf_sha256: str | None
    written: bool
    proof: str
    image_bytes: int
    bytes_written: int
    baud: int
    attempts: int
    seconds: float
    commit: str | None = None
    """The git commit that the firmware is known to be built from."""
    bytes_saved: int = 0
    """Bytes of the images that did not have to be written."""
    bytes_sent: int = 0
    """Bytes over the wire to the chip."""
    plan: str = ""
    """Why so much was written, in one clause."""


@dataclass(frozen=True, kw_only=True)
class FlashFailed(Event):
    """One attempt to flash failed."""

    firmware: str
    attempt: int
    step: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BoardReset(Event):
    """EN was pulsed."""


@dataclass(frozen=True, kw_only=True)
class Booted(Event):
    """A boot was followed to its end, good or bad."""

    reset_reason: str
    boot_mode: str
    bootloader_version: str | None
    partition: str | None
    app_version: str | None
    elf_sha256: str | None
    seconds_to_app: float | None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class FirmwareCrashed(Event):
    """A panic, watchdog or brown-out was seen."""

    kind: str
    text: str
    seconds_after_reset: float | None


@dataclass(frozen=True, kw_only=True)
class PowerOffIntended(Event):
    """Written before the relay is told to switch off; answered by PowerRestored or PowerCycled."""

    entity: str


@dataclass(frozen=True, kw_only=True)
class PowerSwitched(Event):
    """A single on or off was carried out, or not."""

    target: str
    status: str
    seconds: float
    reason: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class PowerCycled(Event):
    """A power cycle ended; the fields are those of the structured result."""

    status: str
    entity: str
    off_s: float
    on_s: float
    attempts: int
    seconds: float
    reason: str
    states: list[dict[str, Any]] = field(default_factory=list)
    """The states read, each `state` and `at_s`."""
    proved_by: list[str] = field(default_factory=list)
    cooldown_s: float = 0.0
    switch_off_s: float = 0.0
    switch_on_s: float = 0.0
    watched_s: float = 0.0
    late_offs: int = 0


@dataclass(frozen=True, kw_only=True)
class Recovered(Event):
    """Something that had gone wrong with the bench was put right without a person."""

    what: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SlotQuarantined(Event):
    """The session uses the slot no more."""

    reason: str
    until: str


@dataclass(frozen=True, kw_only=True)
class TestMoved(Event):
    """The bench failed a test on this slot, so it is tried once on another."""

    __test__: ClassVar[bool] = False  # No test class, whatever pytest thinks of its name.

    node_id: str
    reason: str
