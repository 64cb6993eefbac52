"""The firmware store: what goes in comes out, damage is found, and many processes may use it at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from cli_rig import ONE_ERROR, hut
from lab import Lab

from pytest_hut.errors import FirmwareError, FirmwareMissing
from pytest_hut.firmware.demo import DemoApp, demo_firmware
from pytest_hut.firmware.elf_files import elf_files_of
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.partitions import SUBTYPE_FACTORY, TYPE_APP, Partition, build_partition_table
from pytest_hut.firmware.store import FirmwareStore
from pytest_hut.firmware.store_entry import MANIFEST

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER_SHA = "f" * 40
ELF = b"\x7fELF of the recovery"
ELF_SHA256 = hashlib.sha256(ELF).hexdigest()


def small(version: str = "v1", chip: str = "esp32", ota: bool = False) -> ImageSet:
    """Firmware with one application, so that tests are fast."""
    app = DemoApp(version=version, elf_sha256=ELF_SHA256)
    whole = demo_firmware(chip, recovery=app, ota_0=DemoApp(version=version))
    kept = [image for image in whole.images if ota or image.offset < 0x150000]
    return replace(whole, images=tuple(kept), source=f"demo {version}")


@pytest.fixture
def store(tmp_path: Path) -> FirmwareStore:
    return FirmwareStore(tmp_path / "store")


def leftovers(store: FirmwareStore) -> list[Path]:
    return list((store.folder / ".staging").glob("*"))


def test_what_goes_in_comes_out(store: FirmwareStore) -> None:
    images = small()

    entry = store.add(SHA, images, [ELF])
    loaded = store.load(SHA, "esp32")

    assert loaded.content_sha256 == images.content_sha256
    assert [image.name for image in loaded.images] == [image.name for image in images.images]
    assert (loaded.commit, loaded.chip, loaded.source) == (SHA, "esp32", "demo v1")
    assert (entry.boots, entry.version, entry.elfs[0].sha256) == ("recovery", "v1", ELF_SHA256)
    manifest = json.loads((store.folder / SHA / "esp32" / MANIFEST).read_text())
    assert manifest["commit"] == SHA and manifest["schema"] == "hut.firmware.v1"
    assert {image["file"]: image["sha256"] for image in manifest["images"]} == {
        f"{image.offset:#x}.bin": image.sha256 for image in images.images
    }
    assert leftovers(store) == []


def test_a_commit_can_have_firmware_for_several_chips(store: FirmwareStore) -> None:
    store.add(SHA, small())
    store.add(SHA, small(chip="esp32s3"))

    assert store.load(SHA, "esp32s3").chip == "esp32s3"
    assert {kept.chip for kept in store.entries()} == {"esp32", "esp32s3"}


def test_missing_firmware_is_told_in_one_sentence(store: FirmwareStore) -> None:
    store.add(SHA, small())

    with pytest.raises(FirmwareMissing, match=rf"no firmware of commit {OTHER_SHA} for esp32; run: hut firmware fetch"):
        store.load(OTHER_SHA, "esp32")
    with pytest.raises(FirmwareMissing, match=r"for esp32s3 \(only for esp32\)"):
        store.load(SHA, "esp32s3")
    with pytest.raises(FirmwareMissing):
        FirmwareStore(store.folder / "nowhere").load(SHA, "esp32")


def test_the_same_again_changes_nothing_and_other_content_needs_replace(store: FirmwareStore) -> None:
    first = store.add(SHA, small())
    assert store.add(SHA, small()) == first

    with pytest.raises(FirmwareError, match=r"has other firmware of commit .* already"):
        store.add(SHA, small("v2"))
    assert store.load(SHA, "esp32").content_sha256 == first.content_sha256

    store.add(SHA, small("v2"), replace=True)
    assert store.load(SHA, "esp32").content_sha256 == small("v2").content_sha256
    assert leftovers(store) == []


def test_what_is_in_use_is_not_replaced(store: FirmwareStore) -> None:
    store.add(SHA, small())
    with store.lease(SHA, "esp32"), pytest.raises(FirmwareError, match="in use"):
        store.add(SHA, small("v2"), replace=True)


def damage_image(folder: Path) -> None:
    path = folder / "0x10000.bin"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def link_image(folder: Path) -> None:
    (folder / "0x1000.bin").rename(folder.parent / "elsewhere")
    (folder / "0x1000.bin").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        damage_image,
        link_image,
        lambda folder: (folder / "0x8000.bin").unlink(),
        lambda folder: (folder / f"app-{ELF_SHA256[:16]}.elf").write_bytes(b"another"),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text('{"schema": '),
        lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
        lambda folder: change_manifest(folder, commit=OTHER_SHA),
        lambda folder: change_manifest(folder, boots="ota_0"),
        lambda folder: change_manifest(folder, apps=[]),
        lambda folder: change_manifest(folder, images=[{"file": "../../x", "size": 1, "sha256": "", "offset": 0}]),
        lambda folder: change_manifest(folder, elfs=3),
    ],
)
def test_damage_is_found_refused_and_made_good(store: FirmwareStore, damage: object) -> None:
    store.add(SHA, small(), [ELF])
    store.add(OTHER_SHA, small())
    assert callable(damage)
    damage(store.folder / SHA / "esp32")

    with pytest.raises(FirmwareError, match="is damaged, and is not flashed"):
        store.load(SHA, "esp32")
    assert [kept.commit for kept in store.entries(thorough=True) if kept.problem] == [SHA]

    store.add(SHA, small(), [ELF])
    assert store.load(SHA, "esp32").content_sha256 == small().content_sha256


def test_images_for_another_chip_in_the_place_of_this_one_are_refused(store: FirmwareStore) -> None:
    store.add(SHA, small(chip="esp32s3"))
    folder = store.folder / SHA / "esp32"
    (store.folder / SHA / "esp32s3").rename(folder)
    change_manifest(folder, chip="esp32")

    with pytest.raises(
        FirmwareError, match="its place in the store is for the esp32, the bootloader at 0x0 for the esp32s3"
    ):
        store.load(SHA, "esp32")


def test_only_the_elf_files_of_the_images_are_taken(tmp_path: Path, store: FirmwareStore) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "recovery.elf").write_bytes(ELF)
    (tmp_path / "build" / "bootloader.elf").write_bytes(b"\x7fELF of the bootloader")

    assert elf_files_of(small(), tmp_path / "build") == [ELF]
    with pytest.raises(FirmwareError, match="take the ELF file of the same build"):
        store.add(SHA, small(), [b"another"])


ADD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_firmware_store import ELF, SHA, small
from pytest_hut.firmware.store import FirmwareStore
images = small(sys.argv[3])
{before}
print("ready", flush=True)
sys.stdin.readline()
FirmwareStore(Path(sys.argv[2])).add(SHA, images, [ELF])
"""

KILL_AT = """
import os, signal
left = int(sys.argv[4])
def count(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "fcntl.flock", "os.remove"):
        if event == "open" and sys.argv[2] not in str(arguments[0]):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""


def start_add(store: FirmwareStore, version: str = "v1", before: str = "", *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            ADD.format(before=before),
            str(Path(__file__).parent),
            str(store.folder),
            version,
            *more,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_eight_processes_that_add_at_once_leave_one_good_entry(store: FirmwareStore) -> None:
    adders = [start_add(store) for _ in range(8)]
    assert [line_of(adder.stdout) for adder in adders] == ["ready\n"] * 8
    for adder in adders:
        assert adder.stdin is not None
        adder.stdin.write("go\n")
        adder.stdin.flush()
    for adder in adders:
        _, errors = adder.communicate(timeout=30)
        assert adder.returncode == 0, errors

    [kept] = store.entries(thorough=True)
    assert kept.problem == ""
    assert leftovers(store) == []


def test_processes_that_add_different_firmware_leave_one_good_entry(store: FirmwareStore) -> None:
    adders = [start_add(store, f"v{number % 2}") for number in range(4)]
    results = []
    for adder in adders:
        adder.communicate("go\n", timeout=30)
        results.append(adder.returncode)

    assert 0 in results
    [kept] = store.entries(thorough=True)
    assert kept.problem == "" and kept.entry is not None and kept.entry.version in ("v0", "v1")


def test_kill_9_at_any_step_leaves_no_entry_or_a_good_one(store: FirmwareStore) -> None:
    """Every step that touches the disk is the last one once."""
    seen: set[int] = set()
    number = 0
    done = False
    while not done:
        batch = [start_add(store, "v1", KILL_AT, str(number + ahead)) for ahead in range(1, 5)]
        for adder in batch:
            _, errors = adder.communicate("go\n", timeout=30)
            number += 1
            found = store.entries(thorough=True)
            seen.add(len(found))
            assert [kept.problem for kept in found] in ([], [""])
            assert adder.returncode in (0, -signal.SIGKILL), errors
            done = done or adder.returncode == 0
            for kept in found:  # The next one begins with an empty store.
                store.collect(None, 0)
                assert not kept.folder.exists()
    assert number > 10
    assert seen == {0, 1}
    store.collect(None, 0)
    assert leftovers(store) == []


@contextmanager
def used_by_another_process(store: FirmwareStore, commit: str) -> Iterator[subprocess.Popen[str]]:
    script = (
        "import sys; from pathlib import Path; from pytest_hut.firmware.store import FirmwareStore\n"
        "with FirmwareStore(Path(sys.argv[1])).lease(sys.argv[2], 'esp32'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store.folder), commit],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert line_of(process.stdout) == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def age(store: FirmwareStore, commit: str, days: float) -> None:
    lock = store.folder / commit / "esp32" / "lock"
    then = lock.stat().st_mtime - days * 86400
    os.utime(lock, (then, then))


def test_old_entries_are_collected_by_age_but_none_in_use(store: FirmwareStore) -> None:
    old, used, fresh = "a" * 40, "b" * 40, "c" * 40
    for commit in (old, used, fresh):
        store.add(commit, small())
    for commit in (old, used):
        age(store, commit, 40)
    with used_by_another_process(store, used) as user:
        age(store, used, 40)
        removed, in_use = store.collect(30 * 86400, None)
        assert ([kept.commit for kept in removed], [kept.commit for kept in in_use]) == ([old], [used])
        assert store.load(used, "esp32").commit == used
        age(store, used, 40)
        user.send_signal(signal.SIGKILL)
        user.wait(timeout=10)
    removed, in_use = store.collect(30 * 86400, None)

    assert [kept.commit for kept in removed] == [used] and in_use == []
    assert [kept.commit for kept in store.entries()] == [fresh]
    assert not (store.folder / old).exists()


def test_the_least_recently_used_go_until_the_size_is_right(store: FirmwareStore) -> None:
    commits = ["a" * 40, "b" * 40, "c" * 40]
    for days, commit in enumerate(commits):
        store.add(commit, small())
        age(store, commit, 10 - days)
    store.load(commits[0], "esp32")  # Using it makes it young.
    size = store.entries()[0].size

    removed, _ = store.collect(None, 2 * size + 100)

    assert [kept.commit for kept in removed] == [commits[1]]


def test_a_store_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FirmwareError, match="cannot be written to"):
        FirmwareStore(tmp_path / "file").add(SHA, small())


def test_hut_firmware_from_add_to_gc(lab: Lab) -> None:
    folder = lab.save_firmware(small())
    (folder / "recovery.elf").write_bytes(ELF)

    added = hut(lab, "firmware", "add", str(folder), "--commit", SHA)
    assert (added.returncode, added.stderr) == (0, "")
    assert added.stdout.startswith(f"{SHA} esp32 recovery v1 (") and "1 ELF" in added.stdout
    listed = hut(lab, "firmware", "list")
    assert SHA[:12] in listed.stdout and "v1" in listed.stdout
    [as_json] = json.loads(hut(lab, "firmware", "list", "--json").stdout)["entries"]
    assert as_json["entry"]["commit"] == SHA
    shown = hut(lab, "firmware", "show", SHA).stdout
    assert f"ELF SHA-256 {ELF_SHA256}" in shown and "every file is as it was stored" in shown
    assert hut(lab, "firmware", "verify").stdout == f"{SHA} esp32: good\n"

    damage_image(Path(as_json["folder"]))
    verified = hut(lab, "firmware", "verify", SHA)
    assert verified.returncode == 3
    assert ONE_ERROR.fullmatch(verified.stderr)
    assert hut(lab, "firmware", "gc").returncode == 2
    assert hut(lab, "firmware", "gc", "--size", "0").stdout.startswith(f"removed {SHA}")
    assert json.loads(hut(lab, "firmware", "list", "--json").stdout)["entries"] == []


def with_image(images: ImageSet, offset: int, data: bytes) -> ImageSet:
    return replace(images, images=tuple(replace(i, data=data) if i.offset == offset else i for i in images.images))


SMALL_TABLE = build_partition_table([Partition("recovery", TYPE_APP, SUBTYPE_FACTORY, 0x10000, 0x20000)])
OTHER_APP = small(chip="esp32c3").images[-1].data


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (with_image(small(), 0x10000, OTHER_APP), "the app for recovery at 0x10000 for the esp32c3"),
        (with_image(small(), 0x8000, SMALL_TABLE), "but the partition recovery at 0x10000 only 131072"),
        (with_image(small(), 0x1000, b"\xe9" * 0x8000), "overlaps"),
        (with_image(small(), 0x10000, small().images[-1].data[:-500]), "is cut short"),
        (with_image(small(), 0x10000, small().images[-1].data[:-4] + b"abcd"), "its SHA-256 does not match"),
    ],
    ids=["another chip", "larger than its partition", "overlapping", "truncated", "damaged"],
)
def test_firmware_that_cannot_be_right_is_refused_with_the_reason(lab: Lab, images: ImageSet, reason: str) -> None:
    folder = lab.save_firmware(images)

    done = hut(lab, "firmware", "add", str(folder), "--commit", SHA)

    assert done.returncode == 3 and reason in done.stderr, done.stderr
    assert ONE_ERROR.fullmatch(done.stderr)
    assert hut(lab, "firmware", "show", SHA).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "nothing", "--commit", SHA], 2, "there is no such file"),
        (["add", ".", "--commit", "HEAD"], 2, "is no commit of the git repository"),
        (["show", SHA], 3, "has no firmware of commit"),
        (["verify", "--", "-x"], 2, "is no commit"),
        (["gc", "--days", "x"], 2, "is no number"),
        (["gc", "--size", "1T"], 2, "is no size"),
        (["fetch", SHA], 2, "no place to fetch from is configured"),
        (["fetch", SHA, "--chip", "z80"], 2, "a slot's chip can be one of"),
        (["fetch", SHA, "--repository", "x"], 2, "--repository"),
        (["fetch", SHA, "--shared", "."], 3, "has no firmware of commit"),
    ],
)
def test_mistakes_are_one_line(lab: Lab, arguments: list[str], code: int, message: str) -> None:
    done = hut(lab, "firmware", *arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and ONE_ERROR.fullmatch(done.stderr)


def test_fetching_from_a_shared_folder(lab: Lab) -> None:
    """Another store, a build folder per commit, or a zip per commit."""
    shared = lab.folder / "shared"
    FirmwareStore(shared).add("a" * 40, small("va"), [ELF])
    lab.save_firmware(small("vb")).rename(shared / ("b" * 40))
    (lab.folder / "slots.toml").write_text(
        f'[slots.hut-01]\nvirtual = true\nlock_path = "{lab.lock("hut-01")}"\n'
        '[firmware]\nshared = "shared"\nstore = "mine"\n'
    )

    for letter in "ab":
        done = hut(lab, "firmware", "fetch", letter * 40)
        assert done.returncode == 0 and f"recovery v{letter}" in done.stdout, done.stderr
    assert FirmwareStore(lab.folder / "mine").load("a" * 40, "esp32").commit == "a" * 40

    damage_image(shared / ("a" * 40) / "esp32")
    again = hut(lab, "firmware", "--store", "another", "fetch", "a" * 40)
    assert again.returncode == 3 and "is not the file that was stored" in again.stderr


def test_an_image_set_without_a_chip_is_not_stored(store: FirmwareStore) -> None:
    with pytest.raises(FirmwareError, match="for which chip"):
        store.add(SHA, ImageSet((FlashImage("data", 0x1000, b"x" * 16),), "nowhere"))
