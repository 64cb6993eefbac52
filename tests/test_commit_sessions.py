"""`--hut-commit`: sessions that flash the firmware of one commit and no other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from lab import HW_BOOT_001, Lab

from pytest_hut.firmware.commits import resolve_commit
from pytest_hut.firmware.demo import DemoApp, demo_firmware
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.partitions import build_otadata
from pytest_hut.firmware.store import FirmwareStore

ELFS = {"one": "11" * 32, "two": "22" * 32, "three": "33" * 32}


def firmware(name: str) -> ImageSet:
    """Everything of a commit's firmware."""
    return demo_firmware(
        "esp32", recovery=DemoApp(version=name, elf_sha256=ELFS[name]), ota_0=DemoApp(version=f"{name}-ota")
    )


def artifact(name: str) -> ImageSet:
    """What the upstream lane made of it: as small as it can be, since flashing takes time."""
    whole = firmware(name)
    return replace(whole, images=tuple(image for image in whole.images if image.offset in (0x1000, 0x8000, 0x10000)))


BUILD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_commit_sessions import artifact
images = artifact(Path("version").read_text())
out = Path("out")
out.mkdir()
for image in images.images:
    (out / f"{{image.name}}.bin").write_bytes(image.data)
files = {{f"{{image.offset:#x}}": f"{{image.name}}.bin" for image in images.images}}
chip = os.environ["HUT_CHIP"]
(out / "flasher_args.json").write_text(json.dumps({{"flash_files": files, "extra_esptool_args": {{"chip": chip}}}}))
print("built", os.environ["HUT_COMMIT"], sorted(path.name for path in Path.cwd().iterdir()))
"""


@dataclass
class Product:
    """A product repository with three commits; the store has the firmware of the first two."""

    lab: Lab
    commits: dict[str, str]

    @property
    def store(self) -> FirmwareStore:
        return FirmwareStore(self.lab.home / ".local/state/hut/firmware")


def git(lab: Lab, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=lab.folder, env=lab.environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def product(lab: Lab) -> Product:
    git(lab, "init", "-q", "-b", "main")
    commits = {}
    (lab.folder / "build.py").write_text(BUILD.format(tests=str(Path(__file__).parent)))
    for name in ELFS:
        (lab.folder / "version").write_text(name)
        git(lab, "add", "version", "build.py")
        git(lab, "commit", "-q", "-m", name)
        commits[name] = git(lab, "rev-parse", "HEAD")
    made = Product(lab, commits)
    for name in ("one", "two"):
        made.store.add(commits[name], artifact(name))
    lab.write_slots("hut-01")
    return made


def add_build_hook(lab: Lab, command: list[str]) -> None:
    quoted = ", ".join(f"'{word}'" for word in command)
    with (lab.folder / "slots.toml").open("a") as file:
        file.write(f'\n[firmware]\nbuild = [{quoted}]\nbuild_output = "out"\n')


def boots(lab: Lab) -> list[str]:
    return [event["app_version"] for event in lab.events("hut-01") if event["event"] == "Booted"]


def test_the_firmware_of_the_commit_is_flashed_and_proved(product: Product) -> None:
    lab = product.lab
    for name in ("one", "two"):
        session = lab.run(f"--hut-commit={product.commits[name]}", str(HW_BOOT_001))

        assert session.exit_code == 0, session.output
        record = session.report.slots[0].firmware
        assert record is not None
        assert (record.commit, record.app_version) == (product.commits[name], name)
        assert record.elf_sha256 == ELFS[name]
    assert boots(lab) == ["one", "two"]


def test_a_commit_can_be_named_as_git_names_it(product: Product) -> None:
    for text in (product.commits["one"], product.commits["one"][:10], "HEAD~2", product.commits["one"].upper()):
        assert resolve_commit(text, product.lab.folder) == product.commits["one"]


def test_a_commit_without_firmware_is_refused_before_the_board_is_touched(product: Product) -> None:
    session = product.lab.run("--hut-commit=HEAD", str(HW_BOOT_001))

    assert session.exit_code == 10, session.output
    [line] = [line for line in session.output.splitlines() if line.startswith("Exit: infrastructure:")]
    assert f"has no firmware of commit {product.commits['three']} for esp32; run: hut firmware fetch" in line
    assert product.lab.events("hut-01") == []
    assert session.report.status == "failed"


def test_the_hook_builds_a_missing_commit_in_a_clean_work_tree(product: Product) -> None:
    lab = product.lab
    (lab.folder / "version").write_text("one")  # An edit nobody committed.
    add_build_hook(lab, [sys.executable, "build.py"])

    unasked = lab.run("--hut-commit=HEAD", str(HW_BOOT_001))
    session = lab.run("--hut-commit=HEAD", "--hut-build", str(HW_BOOT_001))
    again = lab.run("--hut-commit=HEAD", "--hut-build", str(HW_BOOT_001))

    assert unasked.exit_code == 10
    assert (session.exit_code, again.exit_code) == (0, 0), session.output + again.output
    assert boots(lab) == ["three", "three"]
    [log] = lab.folder.glob("build/hut/*/firmware_build_esp32.log")  # Built once.
    assert log.read_text() == f"built {product.commits['three']} ['.git', 'build.py', 'out', 'version']\n"
    assert git(lab, "worktree", "list").count("\n") == 0
    assert (lab.folder / "version").read_text() == "one"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["false"], "the build command 'false' ended with exit code 1"),
        (["no-such-command"], "the build command 'no-such-command' cannot be run"),
        (["true"], "does not exist"),
    ],
)
def test_a_build_that_fails_is_infrastructure(product: Product, command: list[str], message: str) -> None:
    add_build_hook(product.lab, command)

    session = product.lab.run("--hut-commit=HEAD", "--hut-build", str(HW_BOOT_001))

    assert session.exit_code == 10
    assert message in session.output
    assert product.lab.events("hut-01") == []
    assert git(product.lab, "worktree", "list").count("\n") == 0


def test_a_tampered_file_is_refused_before_the_board_is_touched(product: Product) -> None:
    path = product.store.folder / product.commits["two"] / "esp32" / "0x10000.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)

    session = product.lab.run(f"--hut-commit={product.commits['two']}", str(HW_BOOT_001))

    assert session.exit_code == 10
    assert "is damaged, and is not flashed" in session.output and "0x10000.bin" in session.output
    assert product.lab.events("hut-01") == []


def test_a_board_that_runs_something_else_is_a_product_failure_that_says_so(product: Product) -> None:
    """The artifact lacks otadata and ota_0; those already on the board make it start something else."""
    lab = product.lab
    commit = product.commits["three"]
    product.store.add(commit, artifact("three"))
    old = firmware("one")
    select = tuple(replace(i, data=build_otadata(0)) if i.offset == 0xD000 else i for i in old.images)
    lab.preload("hut-01", replace(old, images=select))

    session = lab.run(f"--hut-commit={commit}", str(HW_BOOT_001))

    assert session.exit_code == 1, session.output
    [test] = session.report.tests
    assert (test.outcome, test.kind) == ("failed", "product")
    assert "booted another partition" in test.message
    assert boots(lab) == ["one-ota"]


def test_the_elf_in_the_banner_is_matched_against_the_artifact(product: Product) -> None:
    """Same partition, same version, another ELF: the OTA application of an older build was not overwritten."""
    lab = product.lab
    old, new = (
        demo_firmware("esp32", ota_0=DemoApp(version="same", elf_sha256=elf), ota_slot=0)
        for elf in (ELFS["one"], ELFS["two"])
    )
    assert old.at(0x150000) != new.at(0x150000)
    product.store.add(product.commits["three"], new)
    lab.write_test(
        f"import sys; sys.path.insert(0, {str(HW_BOOT_001.parent)!r})\n"
        "import test_hw_boot_001\n"
        "def test_it(hut_slot, flashed_firmware, monkeypatch):\n"
        "    from dataclasses import replace\n"
        f"    identity = replace(flashed_firmware.identity, elf_sha256='{ELFS['one']}')\n"
        "    claimed = replace(flashed_firmware, identity=identity)\n"
        "    test_hw_boot_001.test_boots_the_firmware_we_flashed(hut_slot, claimed)\n"
    )

    session = lab.run(f"--hut-commit={product.commits['three']}", "test_it.py")

    [test] = session.report.tests
    assert (test.outcome, test.kind) == ("failed", "product"), session.output
    assert "the application that runs is not the one we flashed" in test.message


def test_entries_of_a_running_session_are_not_collected(product: Product) -> None:
    lab = product.lab
    store = product.store.folder
    lab.write_test(
        "from pathlib import Path\n"
        "from pytest_hut.firmware.store import FirmwareStore\n"
        "def test_it(hut_slot):\n"
        f"    removed, in_use = FirmwareStore(Path({str(store)!r})).collect(None, 0)\n"
        "    assert [kept.commit[:7] for kept in in_use] == ['" + product.commits["one"][:7] + "']\n"
        "    assert [kept.commit[:7] for kept in removed] == ['" + product.commits["two"][:7] + "']\n"
        "def test_flash(flashed_firmware): assert flashed_firmware.version == 'one'\n"
    )

    session = lab.run("-n", "1", f"--hut-commit={product.commits['one']}", "test_it.py")

    assert session.exit_code == 0, session.output


def test_a_test_cannot_bring_firmware_of_its_own(product: Product) -> None:
    lab = product.lab
    lab.save_firmware(firmware("two"))
    lab.write_test(
        "import pytest\n@pytest.mark.hut(firmware='firmware')\ndef test_it(flashed_firmware): raise AssertionError\n"
    )

    session = lab.run(f"--hut-commit={product.commits['one']}", "test_it.py")

    assert session.exit_code == 10
    assert "this session flashes that of commit" in session.report.tests[0].message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hut-commit=nothing"], "is no commit of the git repository"),
        (["--hut-commit=--help"], "is no commit of the git repository"),
        (["--hut-commit=HEAD", "--hut-firmware=."], "give one of them"),
        (["--hut-build"], "--hut-build needs --hut-commit"),
        (["--hut-commit=HEAD", "--hut-build"], "needs the command that builds"),
    ],
)
def test_options_that_cannot_work(product: Product, arguments: list[str], message: str) -> None:
    session = product.lab.run(*arguments)

    assert session.exit_code == pytest.ExitCode.USAGE_ERROR
    assert message in session.output and "Traceback" not in session.output
