"""The session's tests as JUnit XML, for tools that know no other format."""

from __future__ import annotations

import re
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Property, Skipped, TestCase, TestSuite
from junitparser.junitparser import Properties

from pytest_hut.contracts.report import Report, TestRecord

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot carry, in any form; a board's garbage has them."""


def write_junit(report: Report, path: Path) -> None:
    """Write one suite with every test of the report; slot, HW id and kind of failure are properties of a test."""
    suite = TestSuite(report.job_id)
    suite.timestamp = report.start_utc
    if report.executor:
        suite.hostname = report.executor.hostname
    for name in ("commit_sha", "lane", "lock_key"):
        value = getattr(report, name)
        if value:
            suite.add_property(name, value)
    suite.add_testcases([_case(test) for test in report.tests])
    xml = JUnitXml()
    xml.add_testsuite(suite)
    xml.write(str(path), pretty=True)


def _case(test: TestRecord) -> TestCase:
    message = _NOT_XML.sub("\ufffd", test.message)
    file, _, name = _NOT_XML.sub("\ufffd", test.node_id).partition("::")
    case = TestCase(name or file, classname=file.removesuffix(".py").replace("/", "."), time=test.duration_sec)
    properties = Properties()  # type: ignore[no-untyped-call]
    for key in ("slot", "hw_id", "kind"):
        value = getattr(test, key)
        if value:
            properties.add_property(Property(key, value))
    case.append(properties)  # type: ignore[no-untyped-call]
    match test.outcome:
        case "skipped" | "xfailed":
            case.result = [Skipped(message or test.outcome)]
        case "failed" if test.kind != "infrastructure":
            case.result = [Failure(message, "product")]
        case "failed" | "error" | "crashed":
            case.result = [Error(message, test.kind or "error")]
    return case
