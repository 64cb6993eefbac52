"""Loading firmware from disk: every kind of source, every refusal, and hostile files."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_hut.errors import FirmwareError
from pytest_hut.firmware import trees
from pytest_hut.firmware.demo import DEMO_PROJECT, DemoApp, demo_firmware
from pytest_hut.firmware.identity import describe
from pytest_hut.firmware.imageset import FlashImage, ImageSet
from pytest_hut.firmware.partitions import TYPE_APP, TYPE_DATA, Partition, build_otadata, build_partition_table
from pytest_hut.firmware.sources import load_firmware

RECOVERY_ELF = "aa" * 32
OTA_ELF = "bb" * 32
NAMES = {
    0x1000: "bootloader/bootloader.bin",
    0x0: "bootloader/bootloader.bin",
    0x8000: "partition_table/partition-table.bin",
    0xD000: "ota_data_initial.bin",
    0x10000: "recovery.bin",
    0x150000: "squeezelite.bin",
}


def demo(chip: str = "esp32", ota_slot: int | None = None) -> ImageSet:
    return demo_firmware(
        chip, recovery=DemoApp(elf_sha256=RECOVERY_ELF), ota_0=DemoApp(elf_sha256=OTA_ELF), ota_slot=ota_slot
    )


DEMO = demo()


def write_files(folder: Path, image_set: ImageSet = DEMO) -> dict[int, str]:
    """Write the images below `folder` as a build does; return names by offset."""
    names = {image.offset: NAMES[image.offset] for image in image_set.images}
    for image in image_set.images:
        path = folder / names[image.offset]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
    return names


def flasher_args(names: dict[int, str], **changes: Any) -> dict[str, Any]:
    return {
        "write_flash_args": ["--flash_mode", "dio", "--flash_size", "4MB", "--flash_freq", "80m"],
        "flash_settings": {"flash_mode": "dio", "flash_size": "4MB", "flash_freq": "80m"},
        "flash_files": {f"{offset:#x}": name for offset, name in names.items()},
        "app": {"offset": "0x10000", "file": "recovery.bin", "encrypted": "false"},
        "extra_esptool_args": {"after": "hard_reset", "before": "default_reset", "stub": True, "chip": "esp32"},
        **changes,
    }


def web_manifest(*builds: tuple[str, dict[int, str]]) -> dict[str, Any]:
    return {
        "name": "I2S-4MFlash-16",
        "version": "2.1716",
        "builds": [
            {
                "chipFamily": family,
                "parts": [{"path": name, "offset": f"{offset:#x}"} for offset, name in names.items()],
            }
            for family, names in builds
        ],
    }


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder as ESP-IDF leaves it."""
    folder = tmp_path / "build"
    names = write_files(folder)
    write_json(folder / "flasher_args.json", flasher_args(names))
    write_json(folder / "compile_commands.json", [{"directory": "/x", "file": "a.c"}])
    write_json(folder / "project_description.json", {"version": "1"})
    return folder


def merged(image_set: ImageSet = DEMO, size: int = 0) -> bytes:
    data = bytearray(b"\xff" * max(size, image_set.images[-1].end))
    for image in image_set.images:
        data[image.offset : image.end] = image.data
    return bytes(data)


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def refusal(path: Path, chip: str | None = None) -> str:
    with pytest.raises(FirmwareError) as caught:
        load_firmware(path, chip)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# What can be loaded


def test_build_folder_and_its_file(build: Path) -> None:
    for path in (build, build / "flasher_args.json"):
        loaded = load_firmware(path)
        assert loaded.content_sha256 == DEMO.content_sha256
        assert (loaded.chip, loaded.flash_mode, loaded.flash_freq, loaded.flash_size) == ("esp32", "dio", "80m", "4MB")
        assert loaded.source == str(path)


def test_project_folder_with_a_build_inside(build: Path) -> None:
    assert load_firmware(build.parent).content_sha256 == DEMO.content_sha256


def test_flasher_args_may_point_out_of_the_build_folder(build: Path) -> None:
    outside = build.parent / "prebuilt.bin"
    (build / "recovery.bin").rename(outside)
    for name in ("../prebuilt.bin", str(outside)):
        names = {image.offset: NAMES[image.offset] for image in DEMO.images} | {0x10000: name}
        write_json(build / "flasher_args.json", flasher_args(names))
        assert load_firmware(build).content_sha256 == DEMO.content_sha256


def test_settings_that_leave_it_to_the_bootloader(build: Path) -> None:
    content = flasher_args(write_files(build), flash_settings={"flash_mode": "keep", "flash_size": "detect"})
    del content["extra_esptool_args"]
    loaded = load_firmware(write_json(build / "flasher_args.json", content))
    assert (loaded.flash_mode, loaded.flash_freq, loaded.flash_size, loaded.chip) == (None, None, None, "esp32")


def test_web_tools_manifest(tmp_path: Path) -> None:
    path = write_json(tmp_path / "manifest.json", web_manifest(("ESP32", write_files(tmp_path))))
    for source in (path, tmp_path):
        loaded = load_firmware(source)
        assert (loaded.content_sha256, loaded.chip) == (DEMO.content_sha256, "esp32")


def test_the_chip_chooses_among_builds(tmp_path: Path) -> None:
    other = demo("esp32s3")
    s3 = {offset: f"s3/{name}" for offset, name in write_files(tmp_path / "s3", other).items()}
    builds = (("ESP8266", {0: "x.bin"}), ("ESP32", write_files(tmp_path)), ("ESP32-S3", s3))
    path = write_json(tmp_path / "manifest.json", web_manifest(*builds))
    assert load_firmware(path, "esp32").content_sha256 == DEMO.content_sha256
    loaded = load_firmware(path, "ESP32-S3")
    assert (loaded.content_sha256, loaded.chip) == (other.content_sha256, "esp32s3")
    assert "esp8266, esp32, esp32s3; say which chip" in refusal(path)
    assert "none for the slot's chip esp32c3" in refusal(path, "esp32c3")


@pytest.mark.parametrize("key", ["path", "name", "file"])
@pytest.mark.parametrize("shape", ["list", "release", "releases"])
def test_release_list_of_the_product(tmp_path: Path, key: str, shape: str) -> None:
    files = [{key: name, "offset": f"{offset:#x}"} for offset, name in write_files(tmp_path).items()]
    release = {"name": "SqueezeAmp", "bin_files": files}
    content = {"list": files, "release": release, "releases": [release]}[shape]
    loaded = load_firmware(write_json(tmp_path / "manifest", content))
    assert (loaded.content_sha256, loaded.chip) == (DEMO.content_sha256, "esp32")


def test_offsets_may_be_numbers(tmp_path: Path) -> None:
    files = [{"path": name, "offset": offset} for offset, name in write_files(tmp_path).items()]
    assert load_firmware(write_json(tmp_path / "m.json", files)).content_sha256 == DEMO.content_sha256


@pytest.mark.parametrize("chip", ["esp32", "esp32s3", "esp32c3", "esp32c6"])
def test_merged_file(tmp_path: Path, chip: str) -> None:
    image_set = demo(chip)
    path = tmp_path / "merged.bin"
    path.write_bytes(merged(image_set, size=4 * 1024 * 1024))
    for source in (path, tmp_path):
        loaded = load_firmware(source)
        (image,) = loaded.images
        assert (image.offset, loaded.chip) == (0, chip)
        assert image.data == merged(image_set)[: len(image.data)]
        assert len(image.data) <= image_set.images[-1].end
        assert not image.data.endswith(b"\xff\xff\xff\xff")
        identity = describe(loaded)
        assert (identity.boot_partition, identity.elf_sha256) == ("recovery", RECOVERY_ELF)


@pytest.mark.parametrize("prefix", ["", "release-2.1716/"])
def test_zip_of_a_build(build: Path, tmp_path: Path, prefix: str) -> None:
    loaded = load_firmware(zipped(build, tmp_path / "release.zip", prefix))
    assert (loaded.content_sha256, loaded.flash_size) == (DEMO.content_sha256, "4MB")


def test_zip_of_a_manifest_and_of_a_merged_file(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    write_json(folder / "manifest.json", web_manifest(("ESP32", write_files(folder))))
    assert load_firmware(zipped(folder, tmp_path / "web.zip")).content_sha256 == DEMO.content_sha256
    single = tmp_path / "single"
    single.mkdir()
    (single / "merged.bin").write_bytes(merged())
    assert load_firmware(zipped(single, tmp_path / "single.zip")).images[0].offset == 0


def test_folder_with_just_a_zip(build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    zipped(build, folder / "release.zip")
    assert load_firmware(folder).content_sha256 == DEMO.content_sha256


def test_set_without_bootloader_and_table(tmp_path: Path) -> None:
    write_files(tmp_path)
    loaded = load_firmware(write_json(tmp_path / "m.json", [{"path": "recovery.bin", "offset": "0x10000"}]))
    identity = describe(loaded)
    assert (loaded.chip, identity.boot_partition, identity.project) == ("esp32", "0x10000", DEMO_PROJECT)


def test_set_without_any_app(tmp_path: Path) -> None:
    (tmp_path / "fs.bin").write_bytes(b"some file system")
    loaded = load_firmware(write_json(tmp_path / "m.json", [{"path": "fs.bin", "offset": "0x3f0000"}]))
    identity = describe(loaded)
    assert (loaded.chip, identity.boot_partition, identity.version, identity.apps) == (None, None, None, {})


# What is refused


def part(offset: Any, path: Any = "recovery.bin") -> list[dict[str, Any]]:
    return [{"path": path, "offset": offset}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (part("0x10100"), ["[0]", "0x10100", "multiple"]),
        (part("65537"), ["0x10001", "multiple"]),
        (part("-0x1000"), ["'-0x1000'"]),
        (part(-4096), ["-4096"]),
        (part("ten"), ["'ten'", "0x10000"]),
        (part(None), ["None"]),
        (part(True), ["True"]),
        (part(1.5), ["1.5"]),
        (part("0x8000000"), ["'0x8000000'", "below 0x8000000"]),
        (part("9" * 5000), ["9999"]),
        (part("0x10000", "nothing.bin"), ["[0]", "nothing.bin", "does not exist"]),
        (part("0x10000", "empty.bin"), ["empty.bin", "is empty"]),
        (part("0x10000", "../secret.bin"), ["[0]", "'../secret.bin'", "leaves the manifest's folder"]),
        (part("0x10000", "a/../../secret.bin"), ["leaves the manifest's folder"]),
        (part("0x10000", "..\\secret.bin"), ["leaves the manifest's folder"]),
        (part("0x10000", "/etc/passwd"), ["'/etc/passwd'", "manifest's own folder"]),
        (part("0x10000", "C:\\secret.bin"), ["manifest's own folder"]),
        (part("0x10000", "https://example.org/a.bin"), ["manifest's own folder"]),
        (part("0x10000", "link.bin"), ["link.bin", "is a link out of"]),
        (part("0x10000", "."), ["leaves the manifest's folder"]),
        (part("0x10000", "a\0b"), ["must name a file"]),
        (part("0x10000", "\ud800"), ["must name a file"]),
        (part("0x10000", "x" * 5000), ["cannot be read"]),
        (part("0x10000", 7), ["must name a file, not 7"]),
        (part("0x10000", "bootloader"), ["no regular file"]),
        (part("0x10000") + part("0x14c000"), ["recovery.bin", "overlaps", "0x14c000"]),
        (part("0x10000") + part("0x10000"), ["overlaps"]),
        ([{"offset": "0x1000"}], ["must name a file, not None"]),
        ([{"path": "a", "offset": "0x0"}, 7], ["[1]", "must be an object"]),
        (part("0x1000") * 200, ["200 entries"]),
        ({"builds": []}, ["builds must be a list"]),
        ({"builds": [{"chipFamily": 1}]}, ["builds[0].chipFamily"]),
        ({"builds": [{"chipFamily": "ESP32"}]}, ["builds[0].parts must be a list"]),
        ({"builds": [{"chipFamily": "ESP99", "parts": part("0x10000")}]}, ["'ESP99'", "no known chip"]),
        ({"builds": [{"chipFamily": "ESP32-S3", "parts": part("0x10000")}]}, ["esp32s3", "esp32"]),
        ({"builds": [{"chipFamily": "ESP32", "parts": part("0x0")}] * 2}, ["esp32, esp32; say which chip"]),
        ({"flash_files": []}, ["flash_files must map"]),
        ({"flash_files": {"0x10000": None}}, ["flash_files['0x10000'] must name a file"]),
        ({"flash_files": {"0x10000": "gone.bin"}}, ["flash_files['0x10000']", "gone.bin", "does not exist"]),
        (
            {"flash_files": {"0x10000": "recovery.bin"}, "app": {"encrypted": "true"}},
            ["app.encrypted", "not supported"],
        ),
        (
            {"flash_files": {"0x10000": "recovery.bin"}, "flash_settings": {"flash_mode": "--baud"}},
            ["flash_settings.flash_mode", "'--baud'"],
        ),
        (
            {"flash_files": {"0x10000": "recovery.bin"}, "flash_settings": {"flash_size": "1MB"}},
            ["recovery.bin", "0x14e140", "behind the end of the flash (0x100000)"],
        ),
        ({"flash_files": {"0x0": "recovery.bin"}, "flash_settings": {"flash_size": "big"}}, ["'big'"]),
        ({"flash_files": {"0x10000": "recovery.bin"}, "extra_esptool_args": {"chip": "esp32c6"}}, ["esp32c6", "esp32"]),
        ({"bin_files": {}}, ["bin_files must be a list"]),
        ([{"name": "one", "bin_files": []}, {"name": "two", "bin_files": []}], ["2 releases", "one, two"]),
        ({"name": "no manifest"}, ["is no manifest", "flash_files"]),
        ([], ["is no manifest"]),
    ],
)
def test_bad_manifests(tmp_path: Path, content: Any, words: list[str]) -> None:
    folder = tmp_path / "firmware"
    write_files(folder)
    (folder / "empty.bin").write_bytes(b"")
    (tmp_path / "secret.bin").write_bytes(DEMO.images[0].data)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    text = refusal(write_json(folder / "it.json", content))
    assert "it.json" in text or "entries" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("content", [b"{", b"[1,", b'{"a": "\xff"}', b"[" * 100_000, b'{"builds": [}'])
def test_broken_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flasher_args.json"
    path.write_bytes(content)
    assert "flasher_args.json" in refusal(path)


def test_chip_asked_for(build: Path) -> None:
    assert load_firmware(build, "esp32").chip == "esp32"
    assert "esp32s3" in refusal(build, "esp32s3")
    assert "'esp99', which is no known chip" in refusal(build, "esp99")


def test_images_of_two_chips(build: Path) -> None:
    other = demo("esp32s3").at(0x150000)
    assert other is not None
    (build / "squeezelite.bin").write_bytes(other.data)
    text = refusal(build)
    assert "ota_0 at 0x150000 for the esp32s3" in text


def test_bootloader_at_another_chips_place(tmp_path: Path) -> None:
    names = write_files(tmp_path, demo("esp32c3"))
    moved = {0x1000 if offset == 0 else offset: name for offset, name in names.items()}
    text = refusal(write_json(tmp_path / "m.json", web_manifest(("ESP32-C3", moved))))
    assert "the bootloader at 0x1000 is for the esp32c3, whose ROM looks for it at 0x0" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bootloader/bootloader.bin", "the bootloader at 0x1000 cannot be used"),
        ("recovery.bin", "the app for recovery at 0x10000 cannot be used"),
        ("squeezelite.bin", "the app for ota_0 at 0x150000 cannot be used"),
        ("partition_table/partition-table.bin", "the partition table at 0x8000 is bad (Incorrect MD5 checksum)"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_damaged_and_truncated_files(build: Path, name: str, words: str, cut: bool) -> None:
    path = build / name
    data = bytearray(path.read_bytes())
    if cut:
        del data[len(data) // 2 :]
    else:
        data[100] ^= 0x10
    path.write_bytes(data)
    if cut and "table" in name:
        # Half a table is whole, as long as its end mark is there: the rest is erased flash.
        assert load_firmware(build).chip == "esp32"
    else:
        assert words in refusal(build)


def test_app_that_is_no_image_or_too_large(build: Path) -> None:
    (build / "recovery.bin").write_bytes(b"\x7fELF" + bytes(100))
    assert "begins with 0x7f" in refusal(build)
    (build / "recovery.bin").write_bytes(DEMO.images[3].data)
    small = build_partition_table([Partition("app", TYPE_APP, 0, 0x10000, 0x10000)])
    (build / "partition_table/partition-table.bin").write_bytes(small)
    assert "recovery.bin has" in refusal(build)


def test_table_for_a_larger_flash(build: Path) -> None:
    table = build_partition_table([Partition("fs", TYPE_DATA, 2, 0x200000, 0x400000)])
    (build / "partition_table/partition-table.bin").write_bytes(table)
    assert "the partition fs ends at 0x600000, behind the end of the flash (0x400000)" in refusal(build)


def test_single_files_whose_place_is_unknown(tmp_path: Path) -> None:
    write_files(tmp_path)
    app = refusal(tmp_path / "recovery.bin")
    assert f"the application {DEMO_PROJECT}" in app
    assert "flasher_args.json" in app
    assert "no merged firmware" in refusal(tmp_path / "bootloader/bootloader.bin")
    assert "empty or erased" in refusal(tmp_path / "ota_data_initial.bin")
    assert "2 .bin files" not in refusal(tmp_path)
    assert "3 .bin files" in refusal(tmp_path)


def test_places_where_there_is_no_firmware(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "gone")
    assert "holds no firmware" in refusal(tmp_path)
    assert "is no regular file" in refusal(Path("/dev/zero"))
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "is no regular file" in refusal(fifo)


def test_ambiguous_folders(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, web_manifest(("ESP32", {0x1000: "x.bin"})))
    assert "2 manifests (a.json, b.json)" in refusal(tmp_path)
    two = tmp_path / "two"
    two.mkdir()
    (two / "a.zip").write_bytes(b"")
    (two / "b.zip").write_bytes(b"")
    assert "2 zip archives" in refusal(two)


def test_files_larger_than_any_flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_FLASH", 1000)
    (tmp_path / "big.bin").write_bytes(b"\xff" * 2000)
    assert "is larger than" in refusal(tmp_path / "big.bin")


# Zip archives


def archive_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil.bin", "/etc/evil.bin", "a/../../evil.bin", "..\\evil.bin", "C:/evil.bin"])
def test_zip_slip(tmp_path: Path, name: str) -> None:
    path = archive_of(tmp_path / "slip.zip", {name: b"x"})
    assert "slip.zip" in refusal(path)


def test_zip_manifest_cannot_leave_the_archive(build: Path, tmp_path: Path) -> None:
    names = {0x10000: "../../recovery.bin"}
    write_json(build / "flasher_args.json", flasher_args(names))
    assert "leaves the manifest's folder" in refusal(zipped(build, tmp_path / "out.zip", "deep/er/"))


def test_encrypted_zip(build: Path, tmp_path: Path) -> None:
    path = zipped(build, tmp_path / "secret.zip")
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(header), data):
            data[match.start() + flags] |= 1
    path.write_bytes(data)
    assert "is encrypted" in refusal(path)


def test_broken_zips(build: Path, tmp_path: Path) -> None:
    path = zipped(build, tmp_path / "release.zip")
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    assert "no zip archive that can be read" in refusal(path)
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_zip_with_a_link_or_a_file_twice(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("app.bin")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.bin", "1")
        archive.writestr("a//b.bin", "2")
    assert "two files called a/b.bin" in refusal(path)


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_MAX_UNPACKED", 100_000)
    assert "unpacks to more than" in refusal(archive_of(tmp_path / "bomb.zip", {"a.bin": bytes(200_000)}))
    monkeypatch.setattr(trees, "_MAX_FILES", 3)
    assert "more than 3 entries" in refusal(archive_of(tmp_path / "many.zip", {f"{n}": b"" for n in range(5)}))


# Identity


def test_identity_follows_otadata() -> None:
    blank = describe(demo())
    assert (blank.boot_partition, blank.elf_sha256, blank.chip) == ("recovery", RECOVERY_ELF, "esp32")
    assert {label: app.elf_sha256 for label, app in blank.apps.items()} == {"recovery": RECOVERY_ELF, "ota_0": OTA_ELF}
    chosen = describe(demo(ota_slot=0))
    assert (chosen.boot_partition, chosen.elf_sha256) == ("ota_0", OTA_ELF)
    assert chosen.project == DEMO_PROJECT
    assert chosen.idf_version
    assert chosen.content_sha256 == demo(ota_slot=0).content_sha256 != blank.content_sha256


def corrupted(image_set: ImageSet, *offsets: int) -> ImageSet:
    images = tuple(
        replace(image, data=image.data[:500] + b"\x00\x01\x02" + image.data[503:]) if image.offset in offsets else image
        for image in image_set.images
    )
    return replace(image_set, images=images)


def test_identity_falls_back_as_the_bootloader_does() -> None:
    assert describe(corrupted(demo(), 0x10000)).boot_partition == "ota_0"
    assert describe(corrupted(demo(ota_slot=0), 0x150000)).boot_partition == "recovery"
    nothing = describe(corrupted(demo(), 0x10000, 0x150000))
    assert (nothing.boot_partition, nothing.elf_sha256, nothing.apps) == (None, None, {})


def test_identity_with_several_slots_and_no_factory_app() -> None:
    app = DEMO.at(0x10000)
    assert app is not None
    table = build_partition_table(
        [
            Partition("otadata", TYPE_DATA, 0, 0xD000, 0x2000),
            Partition("ota_0", TYPE_APP, 0x10, 0x10000, 0x140000),
            Partition("ota_1", TYPE_APP, 0x11, 0x150000, 0x140000),
        ]
    )
    images = [FlashImage("table", 0x8000, table), app, replace(app, offset=0x150000)]
    assert describe(ImageSet(tuple(images), "test")).boot_partition == "ota_0"
    images.append(FlashImage("otadata", 0xD000, build_otadata(1)))
    assert describe(ImageSet(tuple(images), "test")).boot_partition == "ota_1"


def test_identity_with_a_moved_partition_table() -> None:
    table = DEMO.at(0x8000)
    assert table is not None
    moved = tuple(replace(image, offset=0xC000) if image is table else image for image in DEMO.images)
    assert describe(replace(DEMO, images=moved)).boot_partition == "recovery"


# Hostile input

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0x1000", "a.bin"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "builds",
                    "parts",
                    "path",
                    "offset",
                    "chipFamily",
                    "flash_files",
                    "flash_settings",
                    "bin_files",
                    "0x1000",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON)
def test_any_json_is_loaded_or_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    path = write_json(tmp_path / "manifest.json", content)
    try:
        loaded = load_firmware(path)
    except FirmwareError as error:
        assert str(error).endswith(".")
    else:
        assert all(image.data == b"content" for image in loaded.images)


def small_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps([{"path": "fs.bin", "offset": "0x3f0000"}]))
        archive.writestr("fs.bin", b"file system" * 20)
    return stream.getvalue()


SMALL_ZIP = small_zip()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.integers(4, len(SMALL_ZIP) - 1), st.integers(0, 255), max_size=6))
def test_any_damaged_zip_is_loaded_or_refused(tmp_path: Path, changes: dict[int, int]) -> None:
    data = bytearray(SMALL_ZIP)
    for place, value in changes.items():
        data[place] = value
    path = tmp_path / "small.zip"
    path.write_bytes(data)
    try:
        loaded = load_firmware(path)
    except FirmwareError as error:
        assert str(error).endswith(".")
    else:
        assert loaded.images


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: b"\xe9" + bytes(0x7FFF) + b"\xaa\x50" + tail)
)
def test_any_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.bin"
    path.write_bytes(data)
    assert "any.bin" in refusal(path)
