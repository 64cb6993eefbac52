"""`hut run` and `hut cancel` as a runner's host uses them: exit codes, signals, locks, a full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_rig import HUT, ONE_ERROR, PATIENCE_S, Finished, flock_gets, hut, read_until, running_hut
from job_rig import OBEDIENT, SELF, STUBBORN, document, ends_soon, is_there, tells
from lab import Lab

from pytest_hut.cli import main
from pytest_hut.contracts.guardrails import cancel_flag, job_lock
from pytest_hut.contracts.report import Report, read_report
from pytest_hut.contracts.schema import schema_of

REPORT_SCHEMA = jsonschema.Draft202012Validator(schema_of("ws2.report.v1"))


@pytest.fixture
def desk(lab: Lab) -> Lab:
    """A laboratory with folders for work, and for locks and flags."""
    for name in ("work", "shared"):
        (lab.folder / name).mkdir()
    return lab


def ask(desk: Lab, command: list[Any], name: str = "job.json", **changes: Any) -> str:
    """Write an invocation and return its path."""
    path = desk.folder / name
    path.write_text(json.dumps(document(command, **{"workdir": str(desk.folder / "work"), **changes})))
    return str(path)


def shared(desk: Lab) -> tuple[str, str]:
    return "--shared", str(desk.folder / "shared")


def run(desk: Lab, command: list[Any], *arguments: str, **changes: Any) -> Finished:
    return hut(desk, "run", ask(desk, command, **changes), *shared(desk), *arguments)


@pytest.fixture
def hut_here(
    desk: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Finished]]:
    """Return what runs `hut` in this process, which is quick."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.chdir(desk.folder)

    def run_here(*arguments: str) -> Finished:
        try:
            code = main([*arguments, *shared(desk)])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Finished(arguments, code, said.out, said.err)

    yield run_here
    for number, handler in handlers.items():
        signal.signal(number, handler)


def report_of(desk: Lab, output: str) -> Report:
    """Return the report whose path was printed, checked."""
    paths = [line.removeprefix("report: ") for line in output.splitlines() if line.startswith("report: ")]
    path = desk.folder / paths[0]
    REPORT_SCHEMA.validate(json.loads(path.read_text()))
    return read_report(path)


@contextmanager
def reading(fifo: Path) -> Iterator[Callable[[], str]]:
    """Make a FIFO; what is yielded waits for a line in it and returns that."""
    os.mkfifo(fifo)
    # Opened for both, so that opening waits for nobody.
    with open(os.open(fifo, os.O_RDWR), "rb", buffering=0) as file:  # noqa: PTH123

        def line() -> str:
            return read_until(file, b"\n").decode().strip()

        yield line


@pytest.mark.parametrize(
    ("command", "changes", "code", "status"),
    [
        (["true"], {}, 0, "success"),
        (["false"], {}, 1, "failed"),
        (["no-such-program"], {}, 1, "failed"),
        (["true"], {"expected_artifacts": ["gone"]}, 1, "failed"),
        (["true"], {"workdir": "nowhere"}, 3, "failed"),
        (["sleep 1000"], {"timeout_sec": 0.2}, 5, "timeout"),
    ],
)
def test_the_exit_code_says_how_it_ended(
    desk: Lab, hut_here: Callable[..., Finished], command: list[str], changes: dict[str, Any], code: int, status: str
) -> None:
    done = hut_here("run", ask(desk, command, **changes))
    assert done.returncode == code
    assert report_of(desk, done.stdout).status == status
    assert done.stdout.startswith(f"{status}: ")
    assert ("\nnext: " in done.stdout) == (code != 0)


def test_the_report_is_beside_the_evidence_and_where_it_was_asked_for(
    desk: Lab, hut_here: Callable[..., Finished]
) -> None:
    done = hut_here("run", ask(desk, ["echo hi"]), "--report", "out/r.json", "--evidence", "proofs")
    assert done.returncode == 0
    folder, asked = (line.removeprefix("report: ") for line in done.stdout.splitlines()[-2:])
    assert asked == "out/r.json"
    assert folder.startswith("proofs/JOB-1_none/runner_job_report_")
    assert (desk.folder / folder).read_text() == (desk.folder / asked).read_text()
    assert done.stderr == "hut: Step 1 of 1 (echo)\n"
    assert not (desk.folder / "work/build").exists()


def test_a_report_that_cannot_be_written_where_asked_is_no_success(
    desk: Lab, hut_here: Callable[..., Finished]
) -> None:
    (desk.folder / "file").write_text("")
    done = hut_here("run", ask(desk, ["true"]), "--report", "file/r.json")
    assert done.returncode == 3
    assert "hut: error: file/r.json cannot be written" in done.stderr
    assert report_of(desk, done.stdout).status == "success"


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no file": (["run", "nothing.json"], ["nothing.json", "No such file"]),
    "a folder": (["run", "work"], ["work", "not a regular file"]),
    "no JSON": (["run", "bad.json"], ["bad.json", "not valid JSON"]),
    "too long": (["run", "long.json"], ["long.json", "timeout_sec", "14400"]),
    "bad key": (["run", "key.json"], ["key.json", "lock_key", "../../x", "1 to 100"]),
    "report is a folder": (["run", "good.json", "--report", "work"], ["--report=work", "folder"]),
    "both waits": (["run", "good.json", "--wait", "1", "--no-wait"], ["--no-wait", "--wait"]),
    "no time": (["run", "good.json", "--wait", "soon"], ["soon"]),
    "no bench is needed": (["run", "good.json", "--config", "x"], ["--config"]),
    "cancel outside": (["cancel", "../x"], ["../x", "1 to 100"]),
    "cancel nothing": (["cancel", ""], ["1 to 100"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_begun(
    desk: Lab, hut_here: Callable[..., Finished], arguments: list[str], words: list[str]
) -> None:
    (desk.folder / "bad.json").write_text("{")
    ask(desk, ["touch never"], "good.json")
    ask(desk, ["touch never"], "long.json", timeout_sec=14401)
    ask(desk, ["touch never"], "key.json", lock_key="../../x")
    before = sorted(desk.folder.rglob("*"))
    done = hut_here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert ONE_ERROR.fullmatch(done.stderr), done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(desk.folder.rglob("*")) == before


def test_a_job_of_the_same_key_waits_or_is_refused(desk: Lab) -> None:
    go = desk.folder / "go"
    os.mkfifo(go)
    with reading(desk.folder / "up") as up:
        first = ask(desk, [tells(desk.folder / "up", f"read x < {go}")], "first.json", job_id="FIRST")
        with running_hut(desk, "run", first, *shared(desk)) as running:
            assert up() == "up"
            refused = run(desk, ["touch never"], "--no-wait", job_id="SECOND")
            assert refused.returncode == 4
            assert f"pid {running.pid} of user" in refused.stdout and "for job FIRST" in refused.stdout
            assert report_of(desk, refused.stdout).status == "failed"
            third = ask(desk, [f"touch {desk.folder}/later"], "third.json", job_id="THIRD")
            with running_hut(desk, "run", third, *shared(desk)) as waiting:
                assert b"for job FIRST" in read_until(waiting.stderr, b"\n")
                assert not (desk.folder / "later").exists()
                go.write_text("go\n")
                output, _ = waiting.communicate(timeout=PATIENCE_S)
                assert waiting.returncode == 0
                assert (report_of(desk, output.decode()).lock_waited_sec or 0) > 0
            running.communicate(timeout=PATIENCE_S)
            assert running.returncode == 0
    assert (desk.folder / "later").exists()
    assert not (desk.folder / "work/never").exists()


def test_jobs_of_different_keys_run_at_once(desk: Lab) -> None:
    with ExitStack() as ends:
        started = []
        for number in (1, 2):
            # Each waits for the other one's line: they only end if both run at once.
            mine, other = desk.folder / f"fifo{number}", desk.folder / f"fifo{3 - number}"
            if number == 1:
                for fifo in (mine, other):
                    os.mkfifo(fifo)
            step = ["sh", "-c", f"echo x > {mine} & read y < {other}; wait"]
            path = ask(desk, [step], f"{number}.json", job_id=f"J{number}", lock_key=f"k{number}")
            started.append(ends.enter_context(running_hut(desk, "run", path, "--no-wait", *shared(desk))))
        for process in started:
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_job_in_order(desk: Lab, name: str) -> None:
    with reading(desk.folder / "up") as up:
        step = ["sh", "-c", f"echo up > {desk.folder}/up; exec {SELF} -c '{OBEDIENT}'"]
        with running_hut(desk, "run", ask(desk, [step, "touch never"]), *shared(desk)) as process:
            assert up() == "up"
            output_file = next((desk.folder / "work").glob("build/hut/*/*_step01-*.log"))
            wait_for_text(output_file, "up\n")
            process.send_signal(signal.Signals[name])
            output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    report = report_of(desk, output.decode())
    assert (report.status, report.exit_code) == ("cancelled", 130)
    assert name in report.human_summary
    assert output_file.read_text() == "up\nrestored\n"
    assert not (desk.folder / "work/never").exists()
    assert flock_gets(job_lock("runner", "key", desk.folder / "shared"))


def wait_for_text(path: Path, text: str) -> None:
    """Wait until a file holds this text."""
    from inotify_simple import INotify, flags

    with INotify() as watcher:
        watcher.add_watch(path, flags.MODIFY)
        while path.read_text() != text:
            assert watcher.read(timeout=int(PATIENCE_S * 1000)), path.read_text()


def test_hut_cancel_ends_a_running_job_and_its_children(desk: Lab) -> None:
    pids = desk.folder / "pids"
    with reading(pids) as told:
        path = ask(desk, [[SELF, "-c", STUBBORN, str(pids)]], job_id="GOAL-001")
        with running_hut(desk, "run", path, "--grace", "0.2", *shared(desk)) as process:
            numbers = read_numbers(told, process)
            done = hut(desk, "cancel", "GOAL-001", *shared(desk))
            assert done.returncode == 0
            assert str(cancel_flag("GOAL-001", desk.folder / "shared")) in done.stdout
            output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6
    assert report_of(desk, output.decode()).status == "cancelled"
    assert [pid for pid in numbers if is_there(pid)] == []


def read_numbers(told: Callable[[], str], process: subprocess.Popen[bytes]) -> list[str]:
    """Return the three process numbers that a stubborn step tells."""
    numbers = told().split()
    assert len(numbers) == 3 and all(is_there(pid) for pid in numbers)
    assert process.poll() is None
    return numbers


def test_a_step_ends_with_a_killed_runner(desk: Lab) -> None:
    with reading(desk.folder / "up") as up:
        step = ["sh", "-c", f"echo $$ > {desk.folder}/up; exec sleep 1000"]
        with running_hut(desk, "run", ask(desk, [step]), *shared(desk)) as process:
            pid = up()
            process.kill()
            # It has inherited the lock, so the lock tells when it has ended.
            assert flock_gets(job_lock("runner", "key", desk.folder / "shared"), PATIENCE_S)
    assert ends_soon(pid)  # A process gives its locks back shortly before it is gone.


def test_the_lock_outlives_a_killed_runner_as_long_as_its_step(desk: Lab) -> None:
    lock = job_lock("runner", "key", desk.folder / "shared")
    go = desk.folder / "go"
    os.mkfifo(go)
    with reading(desk.folder / "up") as up:
        step = ["sh", "-c", f"trap '' TERM; echo up > {desk.folder}/up; read x < {go}"]
        with running_hut(desk, "run", ask(desk, [step]), *shared(desk)) as process:
            assert up() == "up"
            process.kill()
            process.wait()
            assert not flock_gets(lock), "another job could begin beside the step that still runs"
            go.write_text("go\n")
            assert flock_gets(lock, PATIENCE_S)


def test_nobody_reads_what_hut_says_and_the_job_goes_on(desk: Lab) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*HUT, "run", ask(desk, ["true", f"touch {desk.folder}/made"]), *shared(desk)],
            cwd=desk.folder,
            env=desk.environment,
            stdout=write,
            stderr=write,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert (desk.folder / "made").exists()
    [path] = (desk.folder / "work").glob("build/hut/*/*_report_*.json")
    assert read_report(path).status == "success"


# A full disk


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """Let a folder be on a disk of its own, where that may be done."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("only root may mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_still_takes_the_report(desk: Lab) -> None:
    with small_disk(desk.folder / "small", 512):
        done = run(desk, ["head -c 2000000 /dev/zero", "touch never"], "--evidence", "small")
        assert done.returncode == 3
        report = report_of(desk, done.stdout)
        assert report.status == "failed"
        assert "was cut after" in report.human_summary and "no space left on device" in report.human_summary
        assert report.steps[0].exit_code == 0, "the step itself was not disturbed"
        assert 0 < report.steps[0].output_bytes < 512 * 1024
    assert not (desk.folder / "work/never").exists()


def test_on_a_full_disk_nothing_is_begun_and_the_report_is_told(desk: Lab) -> None:
    with small_disk(desk.folder / "small", 64):
        done = run(desk, ["touch never"], "--evidence", "small")
    assert done.returncode == 3
    assert "so nothing was run" in done.stdout
    report = json.loads(done.stderr[done.stderr.index("{") :])
    REPORT_SCHEMA.validate(report)
    assert report["status"] == "failed"
    assert not (desk.folder / "work/never").exists()


def test_a_limit_on_file_sizes_cuts_the_evidence_and_not_the_report(desk: Lab) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [*HUT, "run", ask(desk, [["sh", "-c", "head -c 1000000 /dev/zero"]]), *shared(desk)],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 3
    report = report_of(desk, done.stdout)
    assert report.steps[0].output_bytes == 200_000
    assert "800000 are lost: file too large" in report.human_summary


@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3])
def test_a_signal_at_any_moment_leaves_a_valid_report(desk: Lab, delay_s: float) -> None:
    with running_hut(desk, "run", ask(desk, ["true"] * 20), *shared(desk)) as process:
        timer = threading.Timer(delay_s, process.terminate)
        timer.start()
        output, errors = process.communicate(timeout=PATIENCE_S)
        timer.join()
    assert b"Traceback" not in errors
    if b"report: " in output:
        assert report_of(desk, output.decode()).status == {0: "success", 130: "cancelled"}[process.returncode]
    else:
        # It came before the program could care.
        assert process.returncode in (130, -signal.SIGTERM)
