"""Whose fault a failure is, and how it is shown."""

from __future__ import annotations

from typing import Any, Literal

import pytest

Kind = Literal["product", "infrastructure"]

EXIT_INFRASTRUCTURE = 10
"""Exit status of a session in which tests failed, but only because of the bench."""

AGAIN = "rerun"
"""The outcome of a report that is not the last word; pytest-rerunfailures uses the same word."""

PHASES = ("setup", "call", "teardown")


def kind_of(error: BaseException) -> Kind:
    """Return whose fault it is; what is not an infrastructure error is the product's."""
    from pytest_hut.errors import ConfigError, InfrastructureError

    return "infrastructure" if isinstance(error, (InfrastructureError, ConfigError)) else "product"


def notes_on(report: pytest.TestReport) -> dict[str, Any]:
    """Return our notes on a report: a plain mapping, which xdist carries from worker to controller."""
    notes: dict[str, Any] = vars(report).setdefault("hut", {})
    return notes


def distrust_xfail(report: pytest.TestReport, call: pytest.CallInfo[Any]) -> None:
    """Who expects a failure expects one of the product: one of the bench is none."""
    expected = report.skipped and hasattr(report, "wasxfail")
    if expected and call.excinfo is not None and kind_of(call.excinfo.value) == "infrastructure":
        del report.wasxfail
        report.outcome = "failed"


def annotate(report: pytest.TestReport, call: pytest.CallInfo[Any]) -> None:
    """Note on a failed report whose fault it is; trouble of the bench is told in a sentence, without a traceback."""
    if not report.failed or call.excinfo is None:
        return
    error = call.excinfo.value
    kind = kind_of(error)
    notes = notes_on(report)
    notes["kind"] = kind
    notes["message"] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if kind == "infrastructure":
        report.longrepr = f"infrastructure: {error}"


def slot_to_blame(report: pytest.TestReport) -> str | None:
    """Return the slot whose health a report is about: that of the test, unless another one's board could not be had."""
    notes = notes_on(report)
    slot: str | None = notes.get("failed_slot") or notes.get("slot")
    return slot


def kind_on(report: pytest.TestReport) -> Kind | None:
    """Return the kind that `annotate` noted, also on a report that came from a worker."""
    if report.failed and report.when not in PHASES:
        return "infrastructure"  # What xdist reports for a worker that died.
    kind: Kind | None = notes_on(report).get("kind")
    return kind


def message_on(report: pytest.TestReport) -> str:
    """Return one line that says why the report failed, was skipped, or nothing."""
    noted: str | None = notes_on(report).get("message")
    if noted is not None:
        return noted
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr).strip().splitlines()[-1] if report.failed and report.longrepr else ""


def is_part(report: pytest.TestReport) -> bool:
    """Whether it is about a subtest; the test has a report of its own."""
    return hasattr(report, "context")


def bench_failed(report: pytest.TestReport) -> bool | None:
    """Return whether the bench failed in a test, None where the report does not say how the slot does."""
    if report.when not in PHASES or report.outcome == AGAIN or "slot" not in notes_on(report):
        return None
    failed = kind_on(report) == "infrastructure"
    return failed if failed or (report.when == "call" and report.outcome in ("passed", "failed")) else None
