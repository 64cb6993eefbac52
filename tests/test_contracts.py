"""The two ws2 documents: what is read, what is refused, what is kept, and that the schemas say the same."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_hut.contracts.document import Part
from pytest_hut.contracts.guardrails import TIME_LIMITS, cancel_flag, job_lock
from pytest_hut.contracts.invocation import MAXIMUM_BYTES, Invocation, read_invocation, split_step
from pytest_hut.contracts.report import Report, SlotRecord, dump_report, read_report
from pytest_hut.contracts.schema import MODELS, schema_of, schema_text
from pytest_hut.errors import ConfigError
from pytest_hut.recording.report import write_report

SCHEMAS = Path(__file__).parent.parent / "docs/reference/schemas"

INVOCATION: dict[str, Any] = json.loads("""
{
  "schema_version": "ws2.invocation.v1",
  "job_id": "GOAL-001-WS2-0001",
  "target_role": "runner",
  "requested_by": "arch",
  "request_utc": "2026-02-12T15:30:00Z",
  "commit_sha": "<git sha or none>",
  "repo": "squeezelite-esp32",
  "workdir": "/home/ci/work",
  "command": ["hostname", "whoami", "uptime"],
  "timeout_sec": 600,
  "lock_key": "goal001-ws2-smoke",
  "expected_artifacts": ["test/build/log/smoke_20260212.log"],
  "notes": "role routing smoke test"
}
""")
REPORT: dict[str, Any] = json.loads("""
{
  "schema_version": "ws2.report.v1",
  "job_id": "GOAL-001-WS2-0001",
  "agent_role": "runner",
  "status": "success",
  "start_utc": "2026-02-12T15:30:10Z",
  "end_utc": "2026-02-12T15:30:12Z",
  "duration_sec": 2,
  "exit_code": 0,
  "lock_key": "goal001-ws2-smoke",
  "executor": {"hostname": "hpi5-2", "user": "ci"},
  "commit_sha": "<git sha or none>",
  "artifact_paths": ["test/build/log/smoke_20260212.log"],
  "human_summary": "One sentence a person reads first.",
  "next_action": "What should happen next."
}
""")
DOCUMENTS = {"ws2.invocation.v1": INVOCATION, "ws2.report.v1": REPORT}
READERS = {"ws2.invocation.v1": read_invocation, "ws2.report.v1": read_report}
REQUIRED = {
    "ws2.invocation.v1": [
        "schema_version",
        "job_id",
        "target_role",
        "requested_by",
        "request_utc",
        "command",
        "timeout_sec",
        "lock_key",
    ],
    "ws2.report.v1": [
        "schema_version",
        "job_id",
        "agent_role",
        "status",
        "start_utc",
        "end_utc",
        "duration_sec",
        "exit_code",
        "lock_key",
        "human_summary",
    ],
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_$\x00é", max_size=6), inner, max_size=4),
    max_leaves=8,
)


def in_javascript(
    validator: Any, pattern: str, instance: object, _schema: object
) -> Iterator[jsonschema.ValidationError]:
    """Judge a pattern as JSON Schema means it: `$` is the end, and not the line end before it."""
    if validator.is_type(instance, "string") and not re.search(pattern.replace("$", r"\Z"), str(instance)):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern}")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": in_javascript})


def fits_schema(version: str, document: object) -> bool:
    return bool(Validator(schema_of(version)).is_valid(document))


def read(version: str, path: Path, document: object) -> Part:
    path.write_text(json.dumps(document), encoding="utf-8")
    return READERS[version](path)


def refusal(version: str, path: Path) -> str:
    """Return the sentence in which the reader refuses a file."""
    with pytest.raises(ConfigError) as caught:
        READERS[version](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("version", DOCUMENTS)
def test_the_examples_of_the_contract_are_valid(version: str, tmp_path: Path) -> None:
    read(version, tmp_path / "x.json", DOCUMENTS[version])
    assert fits_schema(version, DOCUMENTS[version])


def test_the_example_is_read_as_it_is_meant(tmp_path: Path) -> None:
    invocation = read("ws2.invocation.v1", tmp_path / "x.json", INVOCATION)
    assert isinstance(invocation, Invocation)
    assert invocation.steps == [["hostname"], ["whoami"], ["uptime"]]
    assert (invocation.target_role, invocation.timeout_sec) == ("runner", 600)
    assert json.loads(invocation.model_dump_json(exclude_unset=True)) == INVOCATION


@pytest.mark.parametrize(("version", "key"), [(version, key) for version in REQUIRED for key in REQUIRED[version]])
def test_a_required_field_is_required(version: str, key: str, tmp_path: Path) -> None:
    document = {name: value for name, value in DOCUMENTS[version].items() if name != key}
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert refusal(version, tmp_path / "x.json").startswith(f"{key} is missing; ")
    assert not fits_schema(version, document)


@pytest.mark.parametrize("version", DOCUMENTS)
def test_only_what_the_contract_requires_is_required(version: str, tmp_path: Path) -> None:
    document = {key: DOCUMENTS[version][key] for key in REQUIRED[version]}
    read(version, tmp_path / "x.json", document)
    assert fits_schema(version, document)


BOTH_REFUSE = [
    ("ws2.invocation.v1", "schema_version", "ws2.invocation.v2", "'ws2.invocation.v1'"),
    ("ws2.invocation.v1", "target_role", "arch", "'infra' or 'runner'"),
    ("ws2.invocation.v1", "target_role", "Runner", "'infra' or 'runner'"),
    ("ws2.invocation.v1", "requested_by", "", "at least 1 character"),
    ("ws2.invocation.v1", "requested_by", 7, "a valid string"),
    ("ws2.invocation.v1", "request_utc", "2026-02-12 15:30:00", "2026-02-12T15:30:10Z"),
    ("ws2.invocation.v1", "request_utc", "2026-02-12T15:30:00+00:00", "2026-02-12T15:30:10Z"),
    ("ws2.invocation.v1", "request_utc", "２026-02-12T15:30:00Z", "2026-02-12T15:30:10Z"),
    ("ws2.invocation.v1", "request_utc", "2026-02-12T15:30:00Z\n", "2026-02-12T15:30:10Z"),
    ("ws2.invocation.v1", "request_utc", 1770910200, "a valid string"),
    ("ws2.invocation.v1", "command", "hostname", "a valid array"),
    ("ws2.invocation.v1", "command", [], "at least 1 item"),
    ("ws2.invocation.v1", "command", [""], "begin with a program"),
    ("ws2.invocation.v1", "command", [[]], "begin with a program"),
    ("ws2.invocation.v1", "command", [["sleep", 1]], "a list of words"),
    ("ws2.invocation.v1", "command", [None], "a list of words"),
    ("ws2.invocation.v1", "command", ["true"] * 1001, "at most 1000 items"),
    ("ws2.invocation.v1", "timeout_sec", "600", "a number"),
    ("ws2.invocation.v1", "timeout_sec", True, "a number"),
    ("ws2.invocation.v1", "timeout_sec", None, "a number"),
    ("ws2.invocation.v1", "timeout_sec", 0, "more than 0"),
    ("ws2.invocation.v1", "timeout_sec", -1, "0 or more"),
    ("ws2.invocation.v1", "timeout_sec", 14401, "at most 14400 s"),
    ("ws2.invocation.v1", "timeout_sec", 10**400, "at most 14400 s"),
    ("ws2.invocation.v1", "lock_key", "../x", "a lock key is 1 to 100"),
    ("ws2.invocation.v1", "lock_key", "a/b", "a lock key is 1 to 100"),
    ("ws2.invocation.v1", "lock_key", "", "a lock key is 1 to 100"),
    ("ws2.invocation.v1", "lock_key", "k" * 101, "a lock key is 1 to 100"),
    ("ws2.invocation.v1", "lock_key", "k\n", "a lock key is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "..", "a job id is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "a/../../b", "a job id is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "", "a job id is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "a\x1b[2Jb", "a job id is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "j" * 101, "a job id is 1 to 100"),
    ("ws2.invocation.v1", "job_id", "jöb", "a job id is 1 to 100"),
    ("ws2.invocation.v1", "expected_artifacts", "x.log", "a valid array"),
    ("ws2.invocation.v1", "expected_artifacts", [""], "a path"),
    ("ws2.invocation.v1", "workdir", "", "a path"),
    ("ws2.report.v1", "schema_version", "ws2.report.v2", "'ws2.report.v1'"),
    ("ws2.report.v1", "agent_role", "nobody", "'arch', 'infra' or 'runner'"),
    ("ws2.report.v1", "status", "passed", "'success', 'failed', 'timeout' or 'cancelled'"),
    ("ws2.report.v1", "end_utc", "yesterday", "2026-02-12T15:30:10Z"),
    ("ws2.report.v1", "duration_sec", "2", "a number"),
    ("ws2.report.v1", "duration_sec", False, "a number"),
    ("ws2.report.v1", "duration_sec", -0.1, "0 or more"),
    ("ws2.report.v1", "exit_code", "0", "a valid integer"),
    ("ws2.report.v1", "exit_code", True, "a valid integer"),
    ("ws2.report.v1", "exit_code", None, "a valid integer"),
    ("ws2.report.v1", "human_summary", "", "at least 1 character"),
    ("ws2.report.v1", "artifact_paths", [1], "a valid string"),
    ("ws2.report.v1", "executor", "hpi5-2", "a JSON object"),
    ("ws2.report.v1", "lane", "other", "'upstream' or 'local-hil'"),
]
READER_REFUSES = [
    ("ws2.invocation.v1", "request_utc", "2026-02-30T15:30:00Z", "no such time"),
    ("ws2.invocation.v1", "request_utc", "2026-02-12T25:30:00Z", "no such time"),
    ("ws2.invocation.v1", "request_utc", "0000-01-01T00:00:00Z", "no such time"),
    ("ws2.invocation.v1", "command", ["echo 'open"], "no closing quotation"),
    ("ws2.invocation.v1", "command", ["   "], "begin with a program"),
    ("ws2.invocation.v1", "command", [["", "x"]], "begin with a program"),
    ("ws2.invocation.v1", "command", [["echo", "a\0b"]], "NUL"),
    ("ws2.invocation.v1", "expected_artifacts", ["ok", "../x"], "below workdir"),
    ("ws2.invocation.v1", "expected_artifacts", ["a/../../x"], "below workdir"),
    ("ws2.invocation.v1", "expected_artifacts", ["/etc/passwd"], "below workdir"),
    ("ws2.invocation.v1", "expected_artifacts", ["."], "below workdir"),
    ("ws2.invocation.v1", "expected_artifacts", ["a\0b"], "a path"),
    ("ws2.report.v1", "start_utc", "2025-02-29T00:00:00Z", "no such time"),
]


@pytest.mark.parametrize(("version", "key", "value", "words"), BOTH_REFUSE + READER_REFUSES)
def test_a_bad_value_is_refused_in_a_sentence(
    version: str, key: str, value: object, words: str, tmp_path: Path
) -> None:
    document = {**DOCUMENTS[version], key: value}
    (tmp_path / "x.json").write_text(json.dumps(document), encoding="utf-8")
    message = refusal(version, tmp_path / "x.json")
    assert message.startswith(key)
    assert words in message
    assert fits_schema(version, document) == ((version, key, value, words) in READER_REFUSES)


def test_absolute_artifacts_may_lie_below_the_working_folder(tmp_path: Path) -> None:
    document = {**INVOCATION, "expected_artifacts": ["/home/ci/work/x.log", "a/../b.log"]}
    read("ws2.invocation.v1", tmp_path / "x.json", document)


@pytest.mark.parametrize(("role", "maximum"), [("infra", 3600), ("runner", 14400)])
def test_each_role_has_its_time_limit(role: str, maximum: int, tmp_path: Path) -> None:
    assert TIME_LIMITS[role].maximum_s == maximum
    longest = {**INVOCATION, "target_role": role, "timeout_sec": maximum}
    read("ws2.invocation.v1", tmp_path / "x.json", longest)
    too_long = {**longest, "timeout_sec": maximum + 0.5}
    (tmp_path / "x.json").write_text(json.dumps(too_long))
    message = refusal("ws2.invocation.v1", tmp_path / "x.json")
    assert f"the role {role} has at most {maximum} s" in message
    assert fits_schema("ws2.invocation.v1", longest)
    assert not fits_schema("ws2.invocation.v1", too_long)


def test_a_missing_time_limit_is_asked_for_with_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**INVOCATION, "timeout_sec": 1}).replace('"timeout_sec": 1, ', ""))
    message = refusal("ws2.invocation.v1", tmp_path / "x.json")
    assert "600 for infra (at most 3600), 1800 for runner (at most 14400)" in message


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("make  -C 'a b' V=\"1 2\" c\\ d", ["make", "-C", "a b", "V=1 2", "c d"]),
        ("echo $HOME * ; rm | x > y # z", ["echo", "$HOME", "*", ";", "rm", "|", "x", ">", "y", "#", "z"]),
        (["echo", "$HOME; x", ""], ["echo", "$HOME; x", ""]),
        ("echo ''", ["echo", ""]),
    ],
)
def test_steps_are_split_and_nothing_more(step: str | list[str], words: list[str]) -> None:
    assert split_step(step) == words


NOT_JSON = {
    "empty": (b"", "not valid JSON"),
    "cut": (json.dumps(INVOCATION).encode()[:-1], "not valid JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
    "half a character": (json.dumps({**INVOCATION, "notes": "\ud800"}).encode(), "not valid JSON"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "rather deep": (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "not valid JSON"),
    "a list": (b"[]", "should be a JSON object"),
    "not a number": (json.dumps({**INVOCATION, "x": float("nan")}).encode(), "NaN is no number that JSON can carry"),
    "infinite": (b'{"x": 1e999}', "1e999 is no number that JSON can carry"),
    "endless": (b'{"x": ' + b"1" * 5000 + b"}", "not valid JSON"),
    "twice": (b'{"job_id": "a", "job_id": "b"}', 'the key "job_id" is given twice'),
}


@pytest.mark.parametrize("version", DOCUMENTS)
@pytest.mark.parametrize(("data", "words"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_such_json_is_refused(version: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(data)
    assert words in refusal(version, tmp_path / "x.json")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refusal("ws2.report.v1", tmp_path / "nothing")
    assert "not a regular file" in refusal("ws2.report.v1", tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal("ws2.invocation.v1", tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is no path"):
        read_invocation(Path("a\0b"))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    assert f"larger than {MAXIMUM_BYTES} bytes" in refusal("ws2.invocation.v1", tmp_path / "x.json")


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf{}")
def test_no_bytes_break_the_readers(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    for version in READERS:
        refusal(version, path)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(DOCUMENTS)))
def test_what_the_reader_accepts_the_schema_accepts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, version: str
) -> None:
    keys = sorted({*MODELS[version].model_fields, "unknown"})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), json_values, max_size=3))
    document = {**copy.deepcopy(DOCUMENTS[version]), **changes}
    path = tmp_path_factory.getbasetemp() / "changed.json"
    try:
        read(version, path, document)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert fits_schema(version, document)


FULL_REPORT: dict[str, Any] = {
    **REPORT,
    "lane": "local-hil",
    "commit_sha": None,
    "slots": [
        {
            "slot": "hut-01",
            "power_cycles": 1,
            "power_cycle_results": [
                {
                    "utc": "2026-02-12T15:30:11.123456789Z",
                    "status": "ok",
                    "entity": "switch.hut_01_power",
                    "off_s": 2,
                    "on_s": 0.5,
                    "attempts": 1,
                    "seconds": 3,
                }
            ],
        }
    ],
    "tests": [{"node_id": "t.py::t", "outcome": "passed", "duration_sec": 1}],
    "steps": [
        {
            "number": 1,
            "command": ["true"],
            "status": "success",
            "exit_code": 0,
            "start_utc": "2026-02-12T15:30:10Z",
            "duration_sec": 1,
            "output": "x",
            "output_bytes": 0,
            "output_sha256": "",
        }
    ],
}


def kept(before: Any, after: Any) -> bool:
    """Whether everything in `before` is in `after`, of the same type; more may be."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(key in after and kept(before[key], after[key]) for key in before)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(kept, before, after))
    return type(before) is type(after) and before == after


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_report_read_and_written_again_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = copy.deepcopy(FULL_REPORT)
    for part in (document, document["executor"], document["slots"][0], document["tests"][0], document["steps"][0]):
        extra = data.draw(st.dictionaries(st.text(max_size=8), json_values, max_size=2))
        part.update({f"x_{key}": value for key, value in extra.items() if fits_utf8(key)})
    document["duration_sec"] = data.draw(st.integers(0) | st.floats(0, allow_infinity=False))
    first, second = (tmp_path_factory.getbasetemp() / name for name in ("first.json", "second.json"))
    first.write_text(json.dumps(document), encoding="utf-8")
    write_report(read_report(first), second)
    assert kept(document, json.loads(second.read_text(encoding="utf-8")))
    write_report(read_report(second), first)
    assert first.read_text() == second.read_text()
    assert fits_schema("ws2.report.v1", json.loads(first.read_text(encoding="utf-8")))


def fits_utf8(text: str) -> bool:
    """Whether JSON can carry this text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_unknown_names_are_kept_even_if_they_are_those_of_methods(tmp_path: Path) -> None:
    document = {**REPORT, "model_dump": 1, "model_config": 2, "__class__": 3, "copy": 4, "slots_": None}
    report = read("ws2.report.v1", tmp_path / "x.json", document)
    assert isinstance(report, Report)
    assert kept(document, dump_report(report))


def test_what_was_never_said_is_left_out(tmp_path: Path) -> None:
    report = read("ws2.report.v1", tmp_path / "x.json", REPORT)
    assert isinstance(report, Report)
    assert dump_report(report) == REPORT
    report.slots.append(SlotRecord(slot="hut-01"))
    assert dump_report(report)["slots"][0]["slot"] == "hut-01"


@pytest.mark.parametrize("version", MODELS)
def test_the_schemas_in_the_documentation_are_those_of_the_models(version: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(version))
    assert (SCHEMAS / f"{version}.json").read_text(encoding="utf-8") == schema_text(version), (
        "write them anew: python -m pytest_hut.contracts.schema docs/reference/schemas"
    )


def test_the_agreed_files() -> None:
    assert str(job_lock("runner", "goal001-ws2-smoke")) == "/tmp/codex-runner-goal001-ws2-smoke.lock"
    assert str(cancel_flag("GOAL-001-WS2-0001")) == "/tmp/codex-cancel-GOAL-001-WS2-0001.flag"


@given(st.text())
@example("../x")
@example("x/../../y")
@example("x\n")
def test_no_name_leaves_its_folder(name: str) -> None:
    for path_of in (lambda: job_lock("infra", name), lambda: cancel_flag(name)):
        try:
            path = path_of()
        except ValueError:
            continue
        assert path.parent == Path("/tmp")
        assert name in path.name
        assert len(os.fsencode(path.name)) < 255
