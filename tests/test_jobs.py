"""Running an invocation: order, limits, cancelling, what is left of it, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inotify_simple import INotify, flags
from job_rig import LEAVES_CHILDREN, OBEDIENT, PATIENCE_S, SELF, STUBBORN, Runner, is_there, tells, utc, when_told

from pytest_hut.contracts.guardrails import cancel_flag, job_lock
from pytest_hut.contracts.report import Report, read_report
from pytest_hut.contracts.schema import schema_of
from pytest_hut.errors import ConfigError, InfrastructureError
from pytest_hut.jobs.artifacts import check_artifact
from pytest_hut.jobs.cancel import CancelFlag, request_cancel
from pytest_hut.jobs.runner import FinishedJob
from pytest_hut.jobs.signals import StopSignals
from pytest_hut.jobs.verdict import Outcome, stopped
from pytest_hut.jobs.watch import Stop, Watch
from pytest_hut.lease.lockfile import LockFile
from pytest_hut.recording.manifest import check_manifest

REPORT_SCHEMA = jsonschema.Draft202012Validator(schema_of("ws2.report.v1"))


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner with an empty working folder."""
    return Runner(tmp_path)


def saved(finished: FinishedJob) -> Report:
    """Return the report as it is on disk, checked; it is the one that was returned."""
    [path] = finished.report_paths
    assert finished.trouble == []
    REPORT_SCHEMA.validate(json.loads(path.read_text()))
    report = read_report(path)
    assert report == finished.report
    assert check_manifest(Path(report.evidence_dir or ""), report.manifest_sha256 or "") == []
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")], "a draft was left"  # noqa: PTH208
    return report


# What a job does


def test_steps_run_in_order_in_the_working_folder_without_a_shell(runner: Runner) -> None:
    finished = runner.run("touch made", "ls", ["echo", "$HOME; x", "a b"], "echo $HOME > 'x y' # z", "pwd")
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.SUCCESS, "success", 0)
    assert runner.outputs() == [
        "",
        "build\nmade\n",
        "$HOME; x a b\n",
        "$HOME > x y # z\n",
        f"{runner.workdir}\n",
    ]
    assert [step.number for step in report.steps] == [1, 2, 3, 4, 5]
    assert report.steps[2].command == ["echo", "$HOME; x", "a b"]
    assert [step.exit_code for step in report.steps] == [0] * 5
    assert "5 steps succeeded" in report.human_summary


def test_the_report_says_what_the_contract_wants(runner: Runner) -> None:
    report = saved(runner.run("true", target_role="infra", lock_key="k", thread_ref="RUNNER-WS8-20260213A"))
    assert (report.job_id, report.agent_role, report.lock_key) == ("JOB-1", "infra", "k")
    assert report.executor is not None and report.executor.hostname == os.uname().nodename
    assert report.start_utc <= report.end_utc
    assert (report.commit_sha, report.thread_ref) == ("none", "RUNNER-WS8-20260213A")
    assert report.next_action


def test_evidence_is_named_by_role_and_sealed(runner: Runner) -> None:
    report = saved(runner.run("echo hello", target_role="infra", notes="kept"))
    folder = Path(report.evidence_dir or "")
    assert folder == runner.workdir / "build/hut/JOB-1_none"
    shapes = ["infra_job_invocation_*_utc.json", "infra_job_report_*_utc.json", "infra_job_step01-echo_*_utc.log"]
    found = [path.name for shape in shapes for path in folder.glob(shape)]
    assert sorted([*found, "MANIFEST.sha256"]) == sorted(path.name for path in folder.iterdir())
    assert len(found) == 3
    [step] = report.steps
    assert (step.output_bytes, step.output_sha256) == (6, hashlib.sha256(b"hello\n").hexdigest())
    assert (runner.workdir / step.output).read_text() == "hello\n"
    assert step.output in report.artifact_paths
    asked = json.loads((folder / found[0]).read_text())
    assert (asked["notes"], asked["timeout_sec"]) == ("kept", 60)


def test_a_second_run_overwrites_nothing(runner: Runner) -> None:
    first, second = (saved(runner.run("true")).evidence_dir for _ in range(2))
    assert (first, second) == (f"{runner.workdir}/build/hut/JOB-1_none", f"{runner.workdir}/build/hut/JOB-1_none_2")


def test_both_output_streams_are_recorded_in_order(runner: Runner) -> None:
    runner.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"])
    assert runner.outputs() == ["1\n2\n3\n"]


def test_output_is_on_disk_while_the_step_runs(runner: Runner, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    fifo, go = tmp_path / "fifo", tmp_path / "go"
    os.mkfifo(go)

    def look() -> None:
        with INotify() as watcher:
            watcher.add_watch(runner.workdir / "build/hut/JOB-1_none", flags.MODIFY)
            while runner.outputs() != ["early\n"] and watcher.read(timeout=int(PATIENCE_S * 1000)):
                pass
        seen.append(runner.outputs())
        go.write_text("go\n")

    with when_told(fifo, look):
        report = saved(runner.run(["sh", "-c", f"echo early; echo up > {fifo}; read x < {go}; echo late"]))
    assert report.status == "success"
    assert seen == [["early\n"]]
    assert runner.outputs() == ["early\nlate\n"]


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        (["sh", "-c", "echo partial; exit 7"], 7, "Step 2 of 3 (sh) failed with exit code 7"),
        (["sh", "-c", "kill -9 $$"], 137, "failed with exit code 137"),
        ("no-such-program-at-all --x", 127, "could not be run: no-such-program-at-all: No such file or directory"),
        ("./text", 126, "could not be run: ./text: Permission denied"),
        (["echo", "x" * 300_000], 126, "Argument list too long"),
    ],
)
def test_a_step_that_fails_ends_the_job(runner: Runner, step: Any, code: int, words: str) -> None:
    (runner.workdir / "text").write_text("no program")
    finished = runner.run("echo first", step, "touch never")
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.FAILED, "failed", code)
    assert words in report.human_summary
    assert [step.status for step in report.steps] == ["success", "failed"]
    assert not (runner.workdir / "never").exists()
    assert all(step.output in report.artifact_paths for step in report.steps)


def test_steps_get_clean_signals_and_nothing_to_read(runner: Runner) -> None:
    runner.run("cat", "grep ^Sig /proc/self/status")
    masks = {name: int(mask, 16) for name, mask in (line.split(":") for line in runner.outputs()[1].splitlines()[1:])}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


def test_a_missing_working_folder_is_the_hosts_fault(runner: Runner, tmp_path: Path) -> None:
    finished = runner.run("true", workdir=str(tmp_path / "nowhere"), options={"evidence": tmp_path / "evidence"})
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.INFRASTRUCTURE, "failed", 3)
    assert "nowhere is not there" in report.human_summary
    assert report.steps == []


def test_a_working_folder_that_a_step_removes(runner: Runner, tmp_path: Path) -> None:
    finished = runner.run("rmdir ../work", "true", options={"evidence": tmp_path / "evidence"})
    report = saved(finished)
    assert report.status == "failed"
    assert "the working folder" in report.human_summary
    assert "cannot be used" in report.human_summary


# Artifacts


def test_expected_artifacts_are_checked_and_listed(runner: Runner) -> None:
    report = saved(runner.run(["sh", "-c", "mkdir logs; printf abc > logs/x"], expected_artifacts=["logs/x"]))
    [artifact] = report.expected_artifacts
    assert (artifact.found, artifact.size, artifact.sha256) == (True, 3, hashlib.sha256(b"abc").hexdigest())
    assert not artifact.older_than_job
    assert report.artifact_paths[0] == "logs/x"
    assert "1 expected artifact found" in report.human_summary


def test_missing_artifacts_fail_the_job_by_name(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    make = "mkdir folder; mkfifo fifo; ln -s ../secret out; ln -s / root; ln -s loop loop; echo > good"
    names = ["good", "gone", "folder", "fifo", "out", "root/etc/passwd", "loop", "n" * 300]
    finished = runner.run(["sh", "-c", make], expected_artifacts=names)
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.FAILED, "failed", 1)
    assert "7 of 8 expected artifacts did not come: gone (no such file or directory), folder" in report.human_summary
    assert {record.path: record.found for record in report.expected_artifacts} == {
        name: name == "good" for name in names
    }
    problems = {record.path: record.problem for record in report.expected_artifacts}
    assert problems["out"] == problems["root/etc/passwd"] == "leads out of the working folder"
    assert "folder" in problems["folder"]
    assert all(record.sha256 is None for record in report.expected_artifacts[1:])
    assert "good" in report.artifact_paths and "out" not in report.artifact_paths


def test_an_artifact_from_before_the_job_is_told_apart(runner: Runner) -> None:
    (runner.workdir / "old").write_text("x")
    os.utime(runner.workdir / "old", (1, 1))
    report = saved(runner.run("true", expected_artifacts=["old"]))
    assert report.expected_artifacts[0].older_than_job
    assert "Not written by this job, but there before: old" in report.human_summary


def test_hashing_a_huge_artifact_ends_with_the_job(runner: Runner) -> None:
    with (runner.workdir / "huge").open("wb") as file:
        file.truncate(1 << 42)
    with StopSignals() as signals, Watch(CancelFlag("J", utc(), runner.shared), signals) as watch:
        watch.limit(0.05)
        record = check_artifact("huge", runner.workdir, 0.0, watch)
    assert watch.stop is not None and watch.stop.kind == "timeout"
    assert (record.sha256, record.problem) == (None, "the job ended while it was read")


# Ending


def test_at_the_time_limit_everything_is_ended(runner: Runner, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    start = time.monotonic()
    finished = runner.run(
        "echo before", [SELF, "-c", STUBBORN, str(pids)], "touch never", timeout_sec=1, options={"grace_s": 0.2}
    )
    assert time.monotonic() - start < PATIENCE_S / 2
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.TIMEOUT, "timeout", 124)
    assert "during step 2 of 3" in report.human_summary
    assert "the time limit of 1 s" in report.human_summary
    assert "timeout_sec" in (report.next_action or "")
    assert [step.status for step in report.steps] == ["success", "timeout"]
    assert report.steps[1].exit_code == 128 + signal.SIGKILL
    told = pids.read_text().split()
    assert len(told) == 3
    assert [pid for pid in told if is_there(pid)] == []
    assert all(f"(pid {pid})" in " ".join(report.steps[1].ended_processes) for pid in told)
    assert not (runner.workdir / "never").exists()


def test_one_that_obeys_is_given_its_time(runner: Runner) -> None:
    report = saved(runner.run([SELF, "-c", OBEDIENT], timeout_sec=0.5))
    assert (report.status, report.exit_code, report.steps[0].exit_code) == ("timeout", 124, 0)
    assert runner.outputs() == ["up\nrestored\n"]


def test_one_that_is_stopped_is_woken_to_end(runner: Runner, tmp_path: Path) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    report = saved(runner.run([SELF, "-c", program], timeout_sec=0.5))
    assert report.steps[0].exit_code == 128 + signal.SIGTERM
    assert report.duration_sec < PATIENCE_S / 2


def test_endless_output_does_not_outlast_the_limit(runner: Runner) -> None:
    report = saved(runner.run("yes", timeout_sec=0.3, options={"grace_s": 0.1}))
    assert report.status == "timeout"
    assert report.duration_sec < 5
    assert report.steps[0].output_bytes > 0


def test_what_a_step_leaves_running_is_ended_with_it(runner: Runner) -> None:
    finished = runner.run([SELF, "-c", LEAVES_CHILDREN], "true", options={"grace_s": 0.2})
    report = saved(finished)
    assert report.status == "success"
    pids = runner.outputs()[0].split()
    assert [pid for pid in pids if is_there(pid)] == []
    names = ["we ) plain (", "we ) escaped (", "we ) stubborn ("]
    told = [f"{name} (pid {pid})" for name, pid in zip(names, pids, strict=True)]
    assert sorted(report.steps[0].ended_processes) == sorted(told)
    assert report.steps[1].ended_processes == []


def test_other_children_of_this_process_are_left_alone(runner: Runner) -> None:
    stranger = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
    try:
        saved(runner.run("true", "sleep 1000", timeout_sec=0.2))
        assert is_there(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_cancels_in_order(runner: Runner, tmp_path: Path, name: str) -> None:
    fifo = tmp_path / "fifo"
    with when_told(fifo, lambda: os.kill(os.getpid(), signal.Signals[name])):
        finished = runner.run(tells(fifo), "touch never")
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.INTERRUPTED, "cancelled", 130)
    assert report.human_summary == f"Cancelled during step 1 of 2 (sh) by {name}."
    assert not (runner.workdir / "never").exists()


def test_a_second_signal_does_not_wait_for_the_grace(runner: Runner, tmp_path: Path) -> None:
    fifo, second = tmp_path / "fifo", tmp_path / "second"

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    step = ["sh", "-c", f"trap 'echo again > {second}' TERM; echo up > {fifo}; while :; do sleep 0.05; done"]
    start = time.monotonic()
    with when_told(fifo, ask), when_told(second, ask):
        finished = runner.run(step, options={"grace_s": 600})
    assert saved(finished).steps[0].exit_code == 128 + signal.SIGKILL
    assert time.monotonic() - start < PATIENCE_S


def test_a_signal_from_before_the_first_step(runner: Runner) -> None:
    signals = StopSignals()
    with signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with Watch(CancelFlag("J", utc(), runner.shared), signals) as watch:
            stop = watch.wait(PATIENCE_S)
    assert stop == Stop("signal", "SIGTERM")


def test_handlers_and_orphans_are_as_before_afterwards(runner: Runner) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
    descriptors = os.listdir("/proc/self/fd")  # noqa: PTH208
    runner.run("true", "false")
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
    assert after == before
    assert os.listdir("/proc/self/fd") == descriptors  # noqa: PTH208


# Cancelling


def test_cancelled_before_it_began(runner: Runner) -> None:
    flag = request_cancel("JOB-1", runner.shared)
    finished = runner.run("touch never")
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.CANCELLED, "cancelled", 130)
    assert report.human_summary.startswith(f"Cancelled before step 1 of 1 (touch) by the flag {flag} (made by ")
    assert report.steps == []
    assert not (runner.workdir / "never").exists()
    assert not flag.exists(), "it would cancel the next run too"


def test_cancelled_between_two_steps(runner: Runner) -> None:
    flag = cancel_flag("JOB-1", runner.shared)
    report = saved(runner.run(f"touch {flag}", "touch never"))
    assert report.status == "cancelled"
    assert "step" in report.human_summary
    assert not (runner.workdir / "never").exists()


def test_cancelled_during_a_step(runner: Runner, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with when_told(fifo, lambda: request_cancel("JOB-1", runner.shared)):
        report = saved(runner.run("echo before", tells(fifo), "touch never"))
    assert report.status == "cancelled"
    assert "during step 2 of 3 (sh)" in report.human_summary
    assert [step.status for step in report.steps] == ["success", "cancelled"]
    assert report.steps[1].exit_code == 128 + signal.SIGTERM


def test_cancelled_while_waiting_for_the_lock(runner: Runner) -> None:
    lock = job_lock("runner", "key", runner.shared)
    with LockFile(lock, "OTHER").acquire(0):
        finished = runner.run(
            "touch never", options={"tell": lambda _line: request_cancel("JOB-1", runner.shared) and None}
        )
    assert finished.outcome is Outcome.CANCELLED
    assert "before step 1" in saved(finished).human_summary
    assert not (runner.workdir / "never").exists()


def test_the_flag_of_another_job_is_not_ours(runner: Runner) -> None:
    request_cancel("JOB-10", runner.shared)
    assert runner.run("true").outcome is Outcome.SUCCESS


def test_a_flag_from_before_the_request_is_stale(runner: Runner) -> None:
    flag = request_cancel("JOB-1", runner.shared)
    os.utime(flag, (time.time() - 3600,) * 2)
    assert runner.run("true").outcome is Outcome.SUCCESS
    assert flag.exists()
    request_cancel("JOB-1", runner.shared)
    assert runner.run("true").outcome is Outcome.CANCELLED, "made to count again"


def test_when_clocks_disagree_every_flag_counts(runner: Runner) -> None:
    os.utime(request_cancel("JOB-1", runner.shared), (1, 1))
    assert runner.run("true", request_utc=utc(3600)).outcome is Outcome.CANCELLED


@pytest.mark.parametrize("what", ["symlink", "broken symlink", "folder", "FIFO"])
def test_only_a_regular_file_is_a_flag(runner: Runner, tmp_path: Path, what: str) -> None:
    flag = cancel_flag("JOB-1", runner.shared)
    target = tmp_path / "target"
    match what:
        case "symlink":
            target.write_text("precious")
            flag.symlink_to(target)
        case "broken symlink":
            flag.symlink_to(target)
        case "folder":
            flag.mkdir()
        case "FIFO":
            os.mkfifo(flag)
    assert runner.run("true").outcome is Outcome.SUCCESS
    with pytest.raises(InfrastructureError, match="not a regular file"):
        request_cancel("JOB-1", runner.shared)
    assert not target.exists() or target.read_text() == "precious"


@pytest.mark.parametrize("job_id", ["../x", "", "a/b", "x" * 101, "a\nb", "a\0b"])
def test_no_flag_is_made_outside_its_folder(runner: Runner, job_id: str) -> None:
    with pytest.raises(ConfigError, match="a job id is 1 to 100"):
        request_cancel(job_id, runner.shared)
    assert list(runner.shared.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_the_flag_of_another_user_counts_but_is_theirs() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shared = Path(folder)
        shared.chmod(0o1777)
        request_cancel("JOB-1", shared)

        def act() -> None:
            flag = CancelFlag("JOB-1", utc(), shared)
            assert str(flag.raised()).endswith("Z)") and "made by root" in str(flag.raised())
            assert not flag.remove()
            with pytest.raises(InfrastructureError, match="made by root, and not ours to renew"):
                request_cancel("JOB-1", shared)
            request_cancel("JOB-2", shared)

        assert os.waitstatus_to_exitcode(os.waitpid(fork_as(NOBODY, act), 0)[1]) == 0
        assert CancelFlag("JOB-2", utc(), shared).remove()


NOBODY = 65534


def fork_as(uid: int, act: Callable[[], None]) -> int:
    """Let a child process `act` as another user; it ends with 0 if that raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(uid)
            act()
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_flag_that_could_not_be_removed_is_to_be_removed_by_hand() -> None:
    verdict = stopped(Stop("flag", "the flag /tmp/x"), "before step 1", Path("/tmp/x"), flag_stays=True)
    assert verdict.next_action == "Remove /tmp/x first, then run again."


# Locking


def test_a_second_job_on_the_same_key_waits(runner: Runner) -> None:
    lock = LockFile(job_lock("runner", "key", runner.shared), "OTHER").acquire(0)
    released = threading.Event()

    def tell(line: str) -> None:
        runner.told.append(line)
        if "OTHER" in line:
            lock.release()
            released.set()

    finished = runner.run("true", options={"tell": tell})
    assert released.is_set()
    assert finished.outcome is Outcome.SUCCESS
    assert "held by" in runner.told[0] and "for job OTHER" in runner.told[0]


def test_or_is_refused_as_asked(runner: Runner) -> None:
    with LockFile(job_lock("runner", "key", runner.shared), "OTHER").acquire(0):
        finished = runner.run("touch never", options={"lock_wait_s": 0})
    report = saved(finished)
    assert (finished.outcome, report.status, report.exit_code) == (Outcome.BUSY, "failed", 4)
    assert "for job OTHER" in report.human_summary
    assert not (runner.workdir / "never").exists()


def test_other_keys_and_other_roles_do_not_matter(runner: Runner) -> None:
    with (
        LockFile(job_lock("runner", "key2", runner.shared)).acquire(0),
        LockFile(job_lock("infra", "key", runner.shared)).acquire(0),
    ):
        assert runner.run("true", options={"lock_wait_s": 0}).outcome is Outcome.SUCCESS


def test_the_lock_is_held_while_the_job_runs_and_free_afterwards(runner: Runner) -> None:
    lock = job_lock("runner", "key", runner.shared)
    runner.run(["sh", "-c", f"flock -n {lock} true && echo free || echo held"], ["sh", "-c", "setsid sleep 1000 &"])
    assert runner.outputs()[0] == "held\n"
    assert LockFile(lock).acquire(0).held


@pytest.mark.parametrize("what", ["symlink", "hard link"])
def test_a_lock_that_is_another_file_too_is_refused(runner: Runner, tmp_path: Path, what: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    lock = job_lock("runner", "key", runner.shared)
    if what == "symlink":
        lock.symlink_to(target)
    else:
        lock.hardlink_to(target)
    finished = runner.run("touch never")
    assert finished.outcome is Outcome.INFRASTRUCTURE
    assert str(lock) in saved(finished).human_summary
    assert target.read_text() == "precious"
    assert not (runner.workdir / "never").exists()


# Evidence in danger


def test_a_job_that_removes_its_evidence_is_told_so(runner: Runner) -> None:
    finished = runner.run("echo one", "rm -rf build", "touch never")
    report = read_report(finished.report_paths[0])
    assert finished.outcome is Outcome.INFRASTRUCTURE
    assert "the file was removed" in report.human_summary
    assert not (runner.workdir / "never").exists()


def test_an_evidence_folder_that_cannot_be_made(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = tmp_path / "report.json"
    for evidence in (tmp_path / "file", tmp_path / "file/below"):
        finished = runner.run("touch never", options={"evidence": evidence, "report": asked})
        assert finished.outcome is Outcome.INFRASTRUCTURE
        assert "evidence folder" in saved_elsewhere(finished, asked).human_summary
    assert not (runner.workdir / "never").exists()


def saved_elsewhere(finished: FinishedJob, path: Path) -> Report:
    """Return the report that is only where it was asked for."""
    assert finished.report_paths == [path]
    REPORT_SCHEMA.validate(json.loads(path.read_text()))
    return read_report(path)


def test_the_commit_is_that_of_the_work_tree(runner: Runner) -> None:
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
    report = saved(
        runner.run("git init -q", [*git, "commit", "-q", "--allow-empty", "-m", "x"], commit_sha="a" * 40, lock_key="g")
    )
    assert report.commit_sha is not None
    assert len(report.commit_sha) == 40 and report.commit_sha != "a" * 40
    assert report.requested_commit_sha == "a" * 40
    assert f"at {report.commit_sha[:12]}, not at aaaaaaaaaaaa" in report.human_summary
    again = saved(runner.run("true", commit_sha=report.commit_sha))
    assert "not at" not in again.human_summary
    assert Path(again.evidence_dir or "").name == f"JOB-1_{report.commit_sha[:12]}"


# Hostile invocations

hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["../../x", "/etc/passwd", "a\x1b[2J", "%s%n", "${HOME}", "a\nb", "." * 40, "-rf", "~", "\u202e", "x" * 3000]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_asked_there_is_a_valid_report_and_nothing_outside(
    runner: Runner, tmp_path: Path, data: st.DataObject
) -> None:
    step = (
        st.sampled_from(["true", "false", "echo hi"])
        | st.lists(hostile, max_size=3).map(lambda words: ["echo", *words])
        | hostile.map(lambda word: [f"no-such-{word}"])
    )
    changes = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "expected_artifacts": st.lists(hostile, max_size=3),
                "commit_sha": hostile,
                "requested_by": hostile,
                "notes": hostile,
                "thread_ref": hostile | st.integers(),
                "job_id": hostile,
                "lock_key": hostile,
                "workdir": hostile,
                "timeout_sec": st.floats(0.001, 0.01) | st.just(60),
                "unknown": hostile,
            },
        )
    )
    steps = data.draw(st.lists(step, min_size=1, max_size=3))
    evidence = tmp_path / "evidence"
    before = sorted(tmp_path.iterdir())
    try:
        finished = runner.run(*steps, options={"evidence": evidence}, **changes)
    except ValueError:
        return  # The reader refuses it.
    saved(finished)
    assert sorted({*before, evidence}) == sorted(tmp_path.iterdir())
    assert all(name.startswith("codex-") for name in os.listdir(runner.shared))  # noqa: PTH208
    assert list(runner.workdir.iterdir()) == []
    shutil.rmtree(evidence)
