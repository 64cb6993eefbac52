"""The documentation says what the code says: keys, options, names, links, and examples that can be used as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import pytest_hut
from pytest_hut import Boot, Console, Firmware, HutSlot, PowerResult, Relay, pytest_plugin
from pytest_hut.bench import models
from pytest_hut.bench.load import load_bench
from pytest_hut.contracts import report
from pytest_hut.events.types import Event
from pytest_hut.firmware.console_script import PANIC_KINDS, parse_script
from pytest_hut.firmware.demo import DEMO_SCRIPT
from pytest_hut.pytest_plugin.options import LANES, add_options

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
CONFIGURATION = DOCS / "reference" / "configuration.md"
PLUGIN = DOCS / "reference" / "pytest-plugin.md"
REPORT = DOCS / "reference" / "report.md"
SCRIPT = DOCS / "reference" / "console-script.md"

TABLES: dict[str, tuple[type[BaseModel], ...]] = {
    "Top level": (models.Bench,),
    "[home_assistant]": (models.HomeAssistant,),
    "[firmware]": (models.FirmwareTable,),
    "[firmware.github]": (models.GitHubTable,),
    "[slots.ID]": (models.Slot,),
    "[slots.ID.relay]": (models.NoRelay, models.HomeAssistantRelay, models.CommandRelay),
    "[slots.ID.power]": (models.PowerTimes,),
    "[slots.ID.virtual_board]": (models.VirtualBoardTable,),
    "[slots.ID.virtual_board.faults]": (models.FaultTable,),
}
"""The sections of configuration.md and what they describe."""

NOT_A_KEY = {"id"}
"""Fields that no file names: the id of a slot is the name of its table."""

NOT_FOR_TESTS = {"next_bytes"}
"""Public in Python, but made for another part of the package."""


def section(page: Path, heading: str) -> str:
    """Return what is under a heading, up to the next one of its level or above."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section '{heading}'"
    return found[2]


def names_in(text: str) -> set[str]:
    """Return the words in code font, without what is in brackets behind them."""
    return {name for code in re.findall(r"`([^`]+)`", text) for name in re.findall(r"^\w+", code)}


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables of a section, by what is in code font in their first cell."""
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.match(r"`([^`]+)`", cells[0])):
            table[name[1]] = cells
    return table


def blocks(language: str) -> list[Any]:
    """Return the code blocks of all pages in one language, as parameters named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_of_slots_toml_is_documented_and_no_other(heading: str) -> None:
    keys = {key for model in TABLES[heading] for key in model.model_fields} - NOT_A_KEY
    assert set(rows(section(CONFIGURATION, heading))) == keys


@pytest.mark.parametrize("heading", TABLES)
def test_documented_defaults_are_those_of_the_code(heading: str) -> None:
    table = rows(section(CONFIGURATION, heading))
    for model in TABLES[heading]:
        for key, info in model.model_fields.items():
            if key not in NOT_A_KEY and not (key == "driver" and info.is_required()):
                assert table[key][2] == _shown_default(key, info), key


def test_every_model_of_the_bench_has_its_section() -> None:
    described = {model for group in TABLES.values() for model in group}
    there = {
        model
        for model in vars(models).values()
        if isinstance(model, type) and issubclass(model, models.StrictModel) and model is not models.StrictModel
    }
    assert there == described


def test_chips_are_documented() -> None:
    assert set(models.CHIPS) <= set(re.findall(r"`(\w+)`", rows(section(CONFIGURATION, "[slots.ID]"))["chip"][3]))
    assert set(models.VIRTUAL_CHIPS) <= set(re.findall(r"`(\w+)`", section(CONFIGURATION, "[slots.ID]")))


class _Options:
    """Stands in for pytest's parser and notes what is added to it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def getgroup(self, *_words: str) -> _Options:
        return self

    def addoption(self, name: str, **_settings: Any) -> None:
        self.names.append(name)


def test_every_option_of_the_plugin_is_documented_and_no_other() -> None:
    options = _Options()
    add_options(options)  # type: ignore[arg-type]
    documented = [name.partition("=")[0] for name in rows(section(PLUGIN, "Options"))]
    assert sorted(documented) == sorted(options.names)


def test_lanes_are_documented() -> None:
    assert set(LANES) <= set(re.findall(r"`([\w-]+)`", rows(section(PLUGIN, "Options"))["--hut-lane=LANE"][1]))


def test_every_marker_and_fixture_is_documented() -> None:
    markers = {re.match(r"\w+", text)[0] for text in pytest_plugin.MARKERS}  # type: ignore[index]
    assert names_in(section(PLUGIN, "Markers")) >= markers
    assert set(rows(section(PLUGIN, "Fixtures"))) >= set(pytest_plugin.__all__)


@pytest.mark.parametrize(
    ("heading", "described"),
    [
        ("HutSlot", HutSlot),
        ("Console", Console),
        ("Boot", Boot),
        ("Firmware", Firmware),
        ("Relay", Relay),
        ("PowerResult", PowerResult),
    ],
)
def test_every_member_a_test_can_use_is_documented(heading: str, described: type) -> None:
    members = {name for name in vars(described) if not name.startswith("_")}
    members |= set(getattr(described, "__dataclass_fields__", ()))
    text = section(PLUGIN, "Fixtures")
    part = text[text.index(f"### {heading}\n") :].split("\n### ", 1)[0]
    assert members - NOT_FOR_TESTS <= names_in(part)


def test_every_public_name_is_documented() -> None:
    text = PLUGIN.read_text(encoding="utf-8")
    assert [name for name in pytest_hut.__all__ if name not in text and name != "HutError"] == []


def test_every_event_and_its_fields_are_documented() -> None:
    table = rows(section(REPORT, "Journals"))
    common = {field.name for field in fields(Event)}
    for name, kind in Event.kinds.items():
        assert name in table, name
        assert {field.name for field in fields(kind)} - common <= names_in(table[name][2]), name


@pytest.mark.parametrize(
    "model",
    [
        report.Report,
        report.SlotRecord,
        report.TestRecord,
        report.Executor,
        report.FirmwareRecord,
        report.FlashRecord,
        report.PowerCycleRecord,
        report.RecoveryRecord,
    ],
)
def test_every_field_of_the_report_is_documented(model: type[BaseModel]) -> None:
    assert set(model.model_fields) <= names_in(section(REPORT, "The report"))


def test_the_console_script_is_documented() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert set(PANIC_KINDS) <= names_in(text)
    actions = [json.loads(code) for code in re.findall(r"^\| `(\{.*?\})` \|", text, re.MULTILINE)]
    script = parse_script({"boot": actions, "psram": "optional", "timers": [{"after_s": 1, "do": actions}]})
    assert {action.verb for action in script.boot} == {"print", "log", "delay", "flood", "panic", "restart", "hang"}


def test_the_commands_of_the_demo_firmware_are_documented() -> None:
    page = section(DOCS / "how-to" / "use-virtual-boards.md", "The console of the demo firmware")
    assert [command for command in DEMO_SCRIPT["commands"] if f"`{command}" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = _without_code(page.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_found_from_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in index] == []


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_slots_toml_shown_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "slots.toml"
    path.write_text(text, encoding="utf-8")
    assert load_bench(path).slots


@pytest.mark.parametrize(
    ("language", "read"), [("python", lambda text: compile(text, "example", "exec")), ("json", json.loads)]
)
def test_every_example_can_be_read(language: str, read: Callable[[str], object]) -> None:
    examples = [param.values[0] for param in blocks(language)]
    assert examples
    for text in examples:
        read(text)


def test_examples_import_what_there_is() -> None:
    imported = {
        name.strip()
        for param in blocks("python")
        for names in re.findall(r"^from pytest_hut import (.+)$", param.values[0], re.MULTILINE)
        for name in names.split(",")
    }
    assert imported
    assert imported <= set(pytest_hut.__all__)


def _shown_default(key: str, info: FieldInfo) -> str:
    if info.is_required() or key == "slots":
        return "required"
    value = info.default
    if isinstance(value, models.NoRelay):
        return '`{ driver = "none" }`'
    if isinstance(value, models.StrictModel):
        return "`{}`"
    if value is None:
        return "none"
    if isinstance(value, Path):
        value = str(value)
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
