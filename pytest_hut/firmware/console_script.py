"""The console script that a demo image carries: what its application prints and answers on a virtual board.

Where it is: in the first mapped segment, right behind the 256 bytes of the application descriptor, as 16 bytes of
marker `b"hut-console-json"`, the length of what follows in bytes (32 bits, little endian), and that many bytes of
UTF-8 JSON: one object, all keys optional.

| key | value |
| --- | --- |
| `boot` | actions done once, after the start-up lines of ESP-IDF |
| `prompt` | text printed (without a line end) after `boot` and after each command |
| `commands` | object: command -> actions. A line from the UART is looked up whole, then by its first word |
| `unknown` | actions for a line that is no command; by default `Unrecognized command: ...` is printed |
| `timers` | list of `{"after_s": seconds, "do": actions}`, counted from the end of `boot`; each fires once |
| `psram` | `"required"`: the application aborts without PSRAM; `"optional"`: it goes on without; absent: it uses none |

Actions are a list. A string prints that line; otherwise an action is an object with one key:

| action | meaning |
| --- | --- |
| `{"print": "text"}` | print a line |
| `{"log": "I tag: text"}` | print a line as ESP_LOGI does, with colour and time; also `W` and `E` |
| `{"delay": 0.5}` | do nothing for so many seconds |
| `{"flood": 65536}` | numbered lines of 32 bytes, at least so many bytes, as fast as the wire allows; a number given as the command's argument replaces this one |
| `{"panic": kind}` | crash: `abort`, `assert`, `stack_smash`, `task_wdt`, `int_wdt`, `StoreProhibited`, `LoadProhibited`, `IllegalInstruction` print what ESP-IDF prints and restart; `hw_wdt` is reset by the hardware without a word |
| `{"restart": true}` | esp_restart() |
| `{"hang": true}` | nothing, for ever |

Texts may contain `{line}` (the command line), `{args}` (what follows its first word), `{uptime_ms}`, `{version}`,
`{project}`, `{idf}`, `{elf_sha256}`, `{partition}` (label) and `{reset_reason}` (the number of esp_reset_reason()).
"""  # noqa: E501 - table rows

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_hut.errors import FirmwareError

_MARKER = b"hut-console-json"
_LENGTH = struct.Struct("<I")
_MAX_SIZE = 1024 * 1024

PANIC_KINDS = (
    "abort",
    "assert",
    "stack_smash",
    "task_wdt",
    "int_wdt",
    "hw_wdt",
    "StoreProhibited",
    "LoadProhibited",
    "IllegalInstruction",
)
PSRAM_USES = ("required", "optional")
_LOG_TEXT = re.compile(r"[IWE] [^:]+: .*", re.DOTALL)


@dataclass(frozen=True)
class Action:
    """One step: `verb` is a key of the action table, `value` its value."""

    verb: str
    value: Any


Actions = tuple[Action, ...]


@dataclass(frozen=True)
class ConsoleScript:
    """A script that was checked; the module's documentation says what each part means."""

    boot: Actions = ()
    prompt: str = ""
    commands: Mapping[str, Actions] | None = None
    unknown: Actions = (Action("print", "Unrecognized command: {line}"),)
    timers: tuple[tuple[float, Actions], ...] = ()
    psram: str | None = None

    def actions_for(self, line: str) -> Actions:
        """Return what to do for a command line."""
        commands = self.commands or {}
        for key in (line, line.split(" ", 1)[0]):
            if key in commands:
                return commands[key]
        return self.unknown


def parse_script(data: object) -> ConsoleScript:
    """Check a script (the decoded JSON); anything wrong raises FirmwareError that names the place."""
    script = _mapping(data, "the script")
    unknown_keys = set(script) - {"boot", "prompt", "commands", "unknown", "timers", "psram"}
    if unknown_keys:
        raise FirmwareError(f"The console script has the unknown key {min(unknown_keys)!r}.")
    prompt = script.get("prompt", "")
    if not isinstance(prompt, str):
        raise FirmwareError("The console script's prompt is not a text.")
    psram = script.get("psram")
    if psram is not None and psram not in PSRAM_USES:
        raise FirmwareError(f"The console script's psram is {psram!r}, not one of {', '.join(PSRAM_USES)}.")
    commands = _mapping(script.get("commands", {}), "commands")
    timers = [_timer(item) for item in _sequence(script.get("timers", []), "timers")]
    values = {"unknown": _actions(script["unknown"], "unknown")} if "unknown" in script else {}
    return ConsoleScript(
        boot=_actions(script.get("boot", []), "boot"),
        prompt=prompt,
        commands={name: _actions(actions, f"command {name!r}") for name, actions in commands.items()},
        timers=tuple(sorted(timers, key=lambda timer: timer[0])),
        psram=psram,
        **values,
    )


def embed_script(script: Mapping[str, Any]) -> bytes:
    """Return the bytes that follow the application descriptor; a bad script raises FirmwareError."""
    parse_script(script)
    text = json.dumps(script, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return _MARKER + _LENGTH.pack(len(text)) + text


def find_script(behind_descriptor: bytes | memoryview) -> ConsoleScript | None:
    """Read the script at the start of what follows the descriptor; None when there is none.

    A script that cannot be read raises FirmwareError.
    """
    head = len(_MARKER) + _LENGTH.size
    if bytes(behind_descriptor[: len(_MARKER)]) != _MARKER or len(behind_descriptor) < head:
        return None
    (length,) = _LENGTH.unpack_from(behind_descriptor, len(_MARKER))
    if length > min(len(behind_descriptor) - head, _MAX_SIZE):
        raise FirmwareError(f"The console script claims {length} bytes, more than its segment holds.")
    try:
        data = json.loads(bytes(behind_descriptor[head : head + length]))
    except (ValueError, RecursionError) as error:
        raise FirmwareError(f"The console script is no JSON: {error}.") from error
    return parse_script(data)


def _timer(data: object) -> tuple[float, Actions]:
    timer = _mapping(data, "a timer")
    if set(timer) != {"after_s", "do"}:
        raise FirmwareError("A timer of the console script needs exactly the keys after_s and do.")
    return _seconds(timer["after_s"], "after_s"), _actions(timer["do"], "a timer")


def _actions(data: object, where: str) -> Actions:
    return tuple(_action(item, where) for item in _sequence(data, where))


def _action(data: object, where: str) -> Action:
    if isinstance(data, str):
        return Action("print", data)
    action = _mapping(data, f"an action of {where}")
    if len(action) != 1:
        raise FirmwareError(f"An action of {where} in the console script needs exactly one key.")
    ((verb, value),) = action.items()
    if verb == "delay":
        return Action(verb, _seconds(value, f"delay in {where}"))
    if not _is_good(verb, value):
        raise FirmwareError(f"The console script does not know the action {verb}: {value!r} in {where}.")
    return Action(verb, value)


def _is_good(verb: str, value: object) -> bool:
    match verb:
        case "print":
            return isinstance(value, str)
        case "log":
            return isinstance(value, str) and _LOG_TEXT.fullmatch(value) is not None
        case "flood":
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0
        case "panic":
            return value in PANIC_KINDS
        case "restart" | "hang":
            return value is True
    return False


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise FirmwareError(f"The console script's {where} is {value!r}, not a number of seconds.")
    return float(value)


def _mapping(data: object, what: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise FirmwareError(f"In the console script {what} is not an object.")
    return data


def _sequence(data: object, what: str) -> list[object]:
    if not isinstance(data, list | tuple):
        raise FirmwareError(f"In the console script {what} is not a list.")
    return list(data)
