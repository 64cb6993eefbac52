"""Jobs whose evidence was made in no time: journals as a session writes them, and what is derived from them."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_hut.cli.arguments import parse
from pytest_hut.cli.exits import exit_code_of, in_one_line
from pytest_hut.contracts.report import Report
from pytest_hut.errors import HutError
from pytest_hut.events import types as ev
from pytest_hut.events.journal import Journal
from pytest_hut.recording.finish import finish_job
from pytest_hut.recording.job import SESSION_JOURNAL, Job

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STAMP = "20260213_215705"


@dataclass(frozen=True)
class Ran:
    """One test that ran."""

    hw_id: str | None = "HW-BOOT-001"
    slot: str = "hut-01"
    outcome: str = "passed"
    kind: str | None = None
    message: str = ""


def write_journals(
    folder: Path,
    tests: Sequence[Ran] = (Ran(),),
    *,
    job_id: str = "GOAL-1",
    commit: str = COMMIT,
    virtual: Sequence[str] = (),
    finished: ev.SessionFinished | None = None,
    killed: bool = False,
    pid: int = 2**22 + 1,
    hostname: str = "bench-host",
) -> Job:
    """Write what a session on real slots (but for those named as virtual) leaves in `folder`."""
    folder.mkdir(parents=True)
    job = Job(job_id, "local-hil", commit, str(folder), STAMP)
    slots = sorted({test.slot for test in tests if test.slot})
    with contextlib.closing(Journal(folder / SESSION_JOURNAL)) as session:
        session.append(
            ev.SessionStarted(
                job_id=job_id,
                lane="local-hil",
                commit_sha=commit,
                lock_key="+".join(slots) or "none",
                slots=slots,
                virtual=False,
                pid=pid,
                stamp=STAMP,
                thread_ref="RUNNER-WS8-20260213A",
                hostname=hostname,
                user="ci",
            )
        )
        for slot in slots:
            _write_slot_journal(job, slot, slot in virtual)
        for number, test in enumerate(tests):
            session.append(
                ev.TestFinished(
                    slot=test.slot,
                    node_id=f"hil_tests/test_it.py::test_{number}",
                    hw_id=test.hw_id,
                    outcome=test.outcome,
                    kind=test.kind,
                    duration_s=1.0,
                    message=test.message,
                    evidence=[f"build/hut/{folder.name}/{test.slot}/console.log"],
                )
            )
        if not killed:
            bad = any(test.outcome in ("failed", "error", "crashed") for test in tests)
            session.append(finished or ev.SessionFinished(exit_code=int(bad)))
    return job


def _write_slot_journal(job: Job, slot: str, virtual: bool) -> None:
    with contextlib.closing(Journal(job.slot_journal(slot, ""))) as journal:
        journal.append(
            ev.SlotLeased(
                slot=slot,
                lock=f"/var/lock/{slot}.lock",
                waited_s=0.5,
                pid=1,
                port=f"/dev/serial/by-id/{slot}",
                chip="esp32",
                virtual=virtual,
            )
        )
        journal.append(
            ev.PowerCycled(
                slot=slot, status="ok", entity="switch.it", off_s=1.0, on_s=0.0, attempts=1, seconds=1.5, reason=""
            )
        )
        journal.append(ev.SlotReleased(slot=slot))
    (job.path / slot / "console.log").write_bytes(b"what the board printed\n")


def make_job(folder: Path, tests: Sequence[Ran] = (Ran(),), **more: object) -> tuple[Report, Path]:
    """Make a finished job; the report lies in `folder`."""
    return finish_job(write_journals(folder, tests, **more))  # type: ignore[arg-type]


def hut_here(*arguments: str | Path) -> tuple[int, str]:
    """Run a command of `hut` in this process; return its exit code and all it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            options = parse([str(word) for word in arguments])
            module = __import__(f"pytest_hut.cli.{options.command}", fromlist=["run"])
            code = int(module.run(options))
        except SystemExit as end:
            code = int(end.code or 0)
        except HutError as error:
            said.write(f"hut: error: {in_one_line(error)}\n")
            code = exit_code_of(error)
    return code, said.getvalue()


def commit_all(folder: Path) -> str:
    """Make a git work tree of a folder with all its files in one commit, and return its SHA."""
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-C", str(folder)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
