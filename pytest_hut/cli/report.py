"""`hut report`: show, validate, merge and rebuild reports."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pytest_hut.cli.exits import OK, PRODUCT
from pytest_hut.contracts.document import DocumentError
from pytest_hut.contracts.report import dump_report, read_report
from pytest_hut.errors import ConfigError, InfrastructureError
from pytest_hut.recording.report import shown_path, write_report


def run(options: argparse.Namespace) -> int:
    """Do what was asked for. Raises ConfigError: a file is not what it has to be."""
    what = {"show": _show, "validate": _validate, "merge": _merge, "rebuild": _rebuild}
    return what[options.what](options)


def _show(options: argparse.Namespace) -> int:
    report = read_report(Path(options.report))
    if options.json:
        print(json.dumps(dump_report(report), indent=2))
        return OK
    from pytest_hut.recording.text import report_text

    print(report_text(report), end="")
    return OK


def _validate(options: argparse.Namespace) -> int:
    code = OK
    for name in options.reports:
        mistakes = _mistakes_in(Path(name))
        code = PRODUCT if mistakes else code
        for line in mistakes or [f"{name}: ok"]:
            print(" ".join(line.split()))
    return code


def _mistakes_in(path: Path) -> list[str]:
    try:
        read_report(path)
    except DocumentError as error:
        return error.mistakes
    except ConfigError as error:
        return [str(error)]
    return []


def _merge(options: argparse.Namespace) -> int:
    from pytest_hut.recording.merge import merge_reports

    if len(options.reports) < 2:
        raise ConfigError("hut report merge makes one report out of several; give at least two")
    paths = [Path(name) for name in options.reports]
    output: Path = options.output
    if any(output.exists() and path.exists() and output.samefile(path) for path in paths):
        raise ConfigError(f"--output {output} is one of the reports to merge; choose another file")
    report = merge_reports(paths)
    try:
        write_report(report, output)
    except OSError as error:
        raise InfrastructureError(f"{output} cannot be written ({error.strerror}); choose another --output") from None
    print(f"{report.status}: {' '.join(report.human_summary.split())}")
    print(f"report: {output}")
    return OK


def _rebuild(options: argparse.Namespace) -> int:
    from pytest_hut.recording.rebuild import rebuild_report

    report, path = rebuild_report(Path(options.folder))
    print(f"{report.status}: {' '.join(report.human_summary.split())}")
    print(f"report: {shown_path(path)}")
    return OK
