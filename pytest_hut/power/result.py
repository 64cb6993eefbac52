"""What became of a power command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "timeout", "ha_error"]
Action = Literal["on", "off", "cycle", "state"]

READ_BACK = "state read back"
"""The proof that the relay itself gives: the state asked for was read, and held."""


@dataclass(frozen=True)
class StateSeen:
    """A state that was read."""

    state: str
    at_s: float
    """Seconds after the action began."""


@dataclass(frozen=True)
class PowerResult:
    """What became of a power command: always one of `ok`, `timeout`, `ha_error`, with the reason in words.

    All times are seconds.
    """

    status: Status
    """`ok`: it is done, as far as it can be told (see `proved_by`). `timeout`: somebody did not answer, or the relay
    did not follow. `ha_error`: what drives the relay said no, made no sense, or is not there."""
    action: Action
    entity: str
    """The relay's name, e.g. its entity id."""
    seconds: float
    """How long all of it took."""
    attempts: int
    """How many commands were sent."""
    states: tuple[StateSeen, ...] = ()
    """The states read, in order, without repetitions. Empty: the relay never told one."""
    reason: str = ""
    """Why it is not `ok`, or what a person should know although it is."""
    proved_by: tuple[str, ...] = ()
    """What shows that it happened, e.g. `state read back`, `port back`, `ROM banner`. Empty: nothing does."""
    off_s: float = 0.0
    """How long the power was to stay off."""
    on_s: float = 0.0
    """How long power was to be on before going on."""
    cooldown_s: float = 0.0
    """How long the slot's cooldown was waited for first."""
    switch_off_s: float = 0.0
    """How long switching off took, until it was read back."""
    switch_on_s: float = 0.0
    """How long switching on took, until it was read back; a watch for a late off comes on top."""
    watched_s: float = 0.0
    """How long, after power was on, an off that may have been still under way was watched for."""
    late_offs: int = 0
    """How often such an off arrived and was undone."""

    @property
    def ok(self) -> bool:
        """Whether what was asked for is done."""
        return self.status == "ok"

    @property
    def last_state(self) -> str:
        """The last state read, `unknown` if there was none."""
        return self.states[-1].state if self.states else "unknown"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)
