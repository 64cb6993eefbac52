"""The bench as typed data: what `slots.toml` may say, with every default in one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from pytest_hut.bench.ids import check_slot_id, default_lock_path
from pytest_hut.bench.virtual_board import Faults, VirtualBoardSpec

CHIPS = (
    "esp32",
    "esp32s2",
    "esp32s3",
    "esp32c2",
    "esp32c3",
    "esp32c5",
    "esp32c6",
    "esp32c61",
    "esp32h2",
    "esp32p4",
)
"""Chips a slot may name: those that esptool can flash and that boot through the ESP-IDF bootloader."""

VIRTUAL_CHIPS = ("esp32", "esp32s3", "esp32c3", "esp32c6")


def _check_port(port: str) -> str:
    if "://" in port:
        return port
    path = Path(port)
    if not path.is_absolute():
        raise ValueError("give an absolute path below /dev/serial/by-id, or a pyserial URL such as rfc2217://host:port")
    if re.fullmatch(r"/dev/(tty|cu)[A-Za-z]*[0-9]*", port):
        raise ValueError(
            "this name changes when boards are plugged in another order; give the /dev/serial/by-id/... path of the "
            "same board (ls -l /dev/serial/by-id shows it)"
        )
    return port


class StrictModel(BaseModel):
    """Unknown keys are mistakes; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Seconds = Annotated[float, Field(ge=0, le=3600)]
Baud = Annotated[int, Field(ge=9600, le=4_000_000)]


class NoRelay(StrictModel):
    """Power is switched by hand, or not at all."""

    driver: Literal["none"] = "none"


class HomeAssistant(StrictModel):
    """Where the bench's Home Assistant is and where its token lies (never the token itself)."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/.*)?$")]
    credentials: Path | None = None
    """A file of `NAME=value` lines; None is `runner.env` in the user's credentials folder."""
    token_name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "HOME_ASSISTANT_TOKEN"
    timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long one request may take."""
    ca_file: Path | None = None
    """Certificate of the authority that an https server's certificate is checked against; None: the usual ones."""


class HomeAssistantRelay(StrictModel):
    """A relay that is an entity of Home Assistant."""

    driver: Literal["home-assistant"]
    entity: Annotated[str, Field(pattern=r"^(switch|light|input_boolean)\.[a-z0-9_]+$")]
    server: HomeAssistant | None = None
    """The Home Assistant that knows the entity; None is the bench's `[home_assistant]`."""


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return pattern


Program = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
"""A program and its arguments, as it is run: no shell reads it."""
OutputPattern = Annotated[str, AfterValidator(_check_pattern)]


class CommandRelay(StrictModel):
    """A relay that programs switch, e.g. uhubctl; see `pytest_hut.power.command`."""

    driver: Literal["command"]
    on: Program
    off: Program
    state: Program | None = None
    """Prints how the relay stands. Without it nothing proves that a command had an effect."""
    state_on: OutputPattern = r"(?i)^on$"
    """Found in what `state` prints when the relay is on (and only then)."""
    state_off: OutputPattern = r"(?i)^off$"
    timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long one run of a program may take; it is killed then."""


Relay = Annotated[NoRelay | HomeAssistantRelay | CommandRelay, Field(discriminator="driver")]


class PowerTimes(StrictModel):
    """How a slot is power-cycled. Times in seconds."""

    off_s: Seconds = 2.0
    """How long the power stays off."""
    on_s: Seconds = 0.0
    """How long to wait after power is proved on before going on; the boot log itself is waited for separately."""
    cooldown_s: Seconds = 0.0
    """Least time from power being back until it is switched off again, also across processes."""
    max_tries: Annotated[int, Field(ge=1, le=10)] = 3
    """How many commands one switching may send."""
    settle_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long a command may take until the state read back agrees."""
    stable_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    """For how long it has to agree, read again and again, before it is believed."""
    watch_s: Seconds = 15.0
    """How long an off that nobody saw arrive is watched for once power is back, counted from when it was given up."""
    budget_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """How long an on, an off or a cycle may take in all, beside cooldown, off_s and on_s; of a cycle's, switching off
    gets half at most, so that there is always time for switching on."""


class FaultTable(StrictModel):
    """`[slots.ID.virtual_board.faults]`: see docs/reference/configuration.md."""

    lose_byte: Annotated[float, Field(ge=0, le=1)] = 0.0
    flip_bit: Annotated[float, Field(ge=0, le=1)] = 0.0
    silent: bool = False
    brownout_after_s: Seconds | None = None
    vanish_after_s: Seconds | None = None
    vanish_for_s: Seconds = 1.0
    md5_wrong_once: bool = False
    seed: int = 0


class VirtualBoardTable(StrictModel):
    """`[slots.ID.virtual_board]`: what the virtual board of this slot is like."""

    flash_size: Literal["2MB", "4MB", "8MB", "16MB"] = "4MB"
    flash_quad: bool = True
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")] | None = None
    chip_revision: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    flash_encryption: bool = False
    secure_download: bool = False
    strapping: int | None = None
    paced: bool = True
    recorded_log: Path | None = None
    faults: FaultTable = FaultTable()


class Slot(StrictModel):
    """A named bench position that holds one board."""

    id: Annotated[str, AfterValidator(check_slot_id)]
    port: Annotated[str, AfterValidator(_check_port)] | None = None
    """A `/dev/serial/by-id/...` path or a pyserial URL; a virtual slot has none."""
    chip: Literal[CHIPS] = "esp32"  # type: ignore[valid-type]
    console_baud: Baud = 115200
    flash_baud: Baud = 921600
    features: tuple[str, ...] = ()
    """Free words a test can ask for, e.g. psram, ethernet, display."""
    adapter: Literal["self-powered", "bus-powered"] = "self-powered"
    """Whether the USB adapter hangs on the switched supply, so that power off takes the port away."""
    reset: Literal["classic", "usb-jtag"] = "classic"
    """How DTR and RTS reach the chip: the devkit transistor pair, or the chip's own USB-Serial-JTAG."""
    port_timeout_s: Annotated[float, Field(gt=0, le=120)] = 15.0
    """How long the port may take to appear, at the start and after power came back."""
    relay: Relay = NoRelay()
    power: PowerTimes = PowerTimes()
    lock_path: Path | None = None
    virtual: bool = False
    virtual_board: VirtualBoardTable = VirtualBoardTable()

    @field_validator("features")
    @classmethod
    def _plain_features(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        for feature in features:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", feature):
                raise ValueError(f"'{feature}' is no plain word; use a-z, 0-9, and . _ + - inside, e.g. psram")
        return features

    @field_validator("lock_path")
    @classmethod
    def _absolute_lock(cls, lock_path: Path | None) -> Path | None:
        if lock_path is not None and not lock_path.is_absolute():
            raise ValueError("give an absolute path, so that every tool means the same file")
        return lock_path

    @model_validator(mode="after")
    def _port_or_virtual(self) -> Slot:
        if self.port is None and not self.virtual:
            raise ValueError('has no port; give port = "/dev/serial/by-id/..." or virtual = true')
        if self.virtual and self.chip not in VIRTUAL_CHIPS:
            raise ValueError(f"a virtual board cannot be a {self.chip}; it can be one of {', '.join(VIRTUAL_CHIPS)}")
        if self.virtual_board.secure_download and self.chip == "esp32":
            raise ValueError("virtual_board.secure_download: the esp32 has no such mode; use a newer chip")
        return self

    @property
    def lock(self) -> Path:
        """The lock file of this slot."""
        return self.lock_path or default_lock_path(self.id)

    def virtual_spec(self) -> VirtualBoardSpec:
        """Return the virtual board that stands in for this slot."""
        table = self.virtual_board
        major, _, minor = (table.chip_revision or "").partition(".")
        return VirtualBoardSpec(
            slot_id=self.id,
            chip=self.chip,
            features=self.features,
            console_baud=self.console_baud,
            flash_size=int(table.flash_size.removesuffix("MB")) * 1024 * 1024,
            flash_quad=table.flash_quad,
            mac=table.mac,
            chip_revision=(int(major), int(minor)) if table.chip_revision else None,
            flash_encryption=table.flash_encryption,
            secure_download=table.secure_download,
            strapping=table.strapping,
            bus_powered=self.adapter == "bus-powered",
            paced=table.paced,
            recorded_log=table.recorded_log,
            faults=Faults(**table.faults.model_dump()),
        )


class GitHubTable(StrictModel):
    """`[firmware.github]`: the repository whose artifacts and releases have the firmware."""

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    api_url: Annotated[str, Field(pattern=r"^https?://[^/\s?#]+(/[^?#\s]*)?$")] = "https://api.github.com"
    artifact: Annotated[str, Field(min_length=1)] = "firmware-{chip}-{commit}"
    """Name of the artifact; a release asset is called the same with `.zip` behind it."""
    credentials: Path | None = None
    """A file of `NAME=value` lines; None is `runner.env` in the user's credentials folder."""
    token_name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "GITHUB_TOKEN"


class FirmwareTable(StrictModel):
    """`[firmware]`: firmware by commit; where it is kept, where it comes from, how it is built."""

    store: Path | None = None
    """Folder of the firmware store; None is `firmware` in the user's state folder."""
    shared: Path | None = None
    """A folder that others fill: a store of theirs, or `<commit>/` or `<commit>.zip` per commit."""
    github: GitHubTable | None = None
    build: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A program and its arguments that build the firmware in a clean work tree; no shell reads it."""
    build_output: Path = Path("build")
    """What it makes: a path inside the work tree, of the same kinds as `--hut-firmware`."""
    build_timeout_s: Annotated[float, Field(gt=0, le=14400)] = 3600.0

    @field_validator("build_output")
    @classmethod
    def _inside(cls, output: Path) -> Path:
        if output.is_absolute() or ".." in output.parts:
            raise ValueError("give a path inside the work tree that is built, such as build")
        return output


class Bench(StrictModel):
    """All slots of one host."""

    slots: dict[str, Slot] = {}
    home_assistant: HomeAssistant | None = None
    firmware: FirmwareTable = FirmwareTable()
    evidence_dir: Path = Path("build/hut")
    """Where each job's folder is made; relative to the folder pytest or `hut` runs in."""

    @model_validator(mode="before")
    @classmethod
    def _ids_from_keys(cls, data: Any) -> Any:
        slots = data.get("slots") if isinstance(data, dict) else None
        if not isinstance(slots, dict):
            return data
        named = {key: {"id": key, **table} if isinstance(table, dict) else table for key, table in slots.items()}
        return {**data, "slots": named}

    @model_validator(mode="after")
    def _nothing_shared(self) -> Bench:
        for what in ("port", "lock", "relay.entity"):
            seen: dict[Any, str] = {}
            for slot in self.slots.values():
                value = getattr(slot.relay, "entity", None) if what == "relay.entity" else getattr(slot, what)
                if value is None:
                    continue
                if value in seen:
                    raise ValueError(
                        f"slots {seen[value]} and {slot.id} have the same {what} '{value}'; every slot needs its own"
                    )
                seen[value] = slot.id
        for slot in self.slots.values():
            relay = slot.relay
            if relay.driver == "home-assistant" and relay.server is None and self.home_assistant is None:
                raise ValueError(
                    f"slot {slot.id} has a home-assistant relay, but there is no [home_assistant] table with its url"
                )
        return self
