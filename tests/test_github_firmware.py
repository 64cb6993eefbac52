"""Firmware from GitHub, with the API's documented answers, good and bad; and the token, which goes nowhere else."""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_rig import ONE_ERROR, Finished, hut
from github_stand_in import REPOSITORY, TOKEN, Answer, StandIn, as_json, github_stand_in
from lab import Lab

from pytest_hut.bench.models import Bench, FirmwareTable, GitHubTable
from pytest_hut.cli import firmware as firmware_command
from pytest_hut.cli.arguments import parse
from pytest_hut.doctor import slots as doctor_slots
from pytest_hut.errors import ConfigError, FirmwareError, FirmwareMissing
from pytest_hut.firmware.demo import DemoApp, demo_firmware
from pytest_hut.firmware.imageset import ImageSet
from pytest_hut.firmware.store import FirmwareStore
from pytest_hut.hub.commit import SOURCES, fetch
from pytest_hut.hub.github import GitHub

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER_SHA = "f" * 40
NAME = f"firmware-esp32-{SHA}"
LIST = f"/repos/{REPOSITORY}/actions/artifacts"


def firmware(version: str = "v1", chip: str = "esp32") -> ImageSet:
    whole = demo_firmware(chip, recovery=DemoApp(version=version))
    return replace(whole, images=tuple(image for image in whole.images if image.offset < 0x150000))


def zipped(images: ImageSet) -> bytes:
    """Return what an upload of a build folder becomes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for image in images.images:
            archive.writestr(f"{image.name}.bin", image.data)
        files = {f"{image.offset:#x}": f"{image.name}.bin" for image in images.images}
        archive.writestr("flasher_args.json", json.dumps({"flash_files": files}))
    return buffer.getvalue()


GOOD = zipped(firmware())


@pytest.fixture
def github() -> Iterator[StandIn]:
    with github_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    path = folder / "runner.env"
    path.touch(mode=0o600)
    path.write_text(f"GITHUB_TOKEN={TOKEN}\n")
    return path


@pytest.fixture
def places(github: StandIn, token_file: Path, tmp_path: Path) -> FirmwareTable:
    table = GitHubTable(repository=REPOSITORY, api_url=github.api_url, credentials=token_file)
    return FirmwareTable(store=tmp_path / "store", github=table)


def run_fetch(places: FirmwareTable, commit: str = SHA, chip: str = "esp32") -> ImageSet:
    assert places.store is not None
    store = FirmwareStore(places.store)
    fetch(store, places, commit, chip, SOURCES, replace=False)
    return store.load(commit, chip)


def test_the_artifact_of_the_commit_is_found_on_a_later_page(github: StandIn, places: FirmwareTable) -> None:
    for number in range(4):
        github.add_artifact(NAME, OTHER_SHA, zipped(firmware(f"other{number}")))
    github.add_artifact(NAME, SHA, GOOD)
    github.add_artifact("something-else", SHA, b"")

    images = run_fetch(places)

    assert images.content_sha256 == firmware().content_sha256
    assert images.source == f"{REPOSITORY} artifact 5 of run 1005"
    pages = [path for which, path, _ in github.asked if which == "api" and path.startswith(LIST + "?")]
    assert len(pages) == 3


def test_a_name_does_not_make_it_the_firmware_of_that_commit(github: StandIn, places: FirmwareTable) -> None:
    """Any run, also one of a stranger's pull request, may call its artifact as it likes."""
    github.add_artifact(NAME, OTHER_SHA, GOOD)

    with pytest.raises(FirmwareMissing, match=f"has no artifact {NAME} of commit {SHA}"):
        run_fetch(places)
    assert not any("/zip" in path for _, path, _ in github.asked)


def test_of_several_the_newest_that_has_not_expired_is_taken(github: StandIn, places: FirmwareTable) -> None:
    github.add_artifact(NAME, SHA, zipped(firmware("v0")))
    github.add_artifact(NAME, SHA, GOOD)
    github.add_artifact(NAME, SHA, zipped(firmware("v2")), expired=True)

    assert run_fetch(places).content_sha256 == firmware().content_sha256


def test_an_asset_of_the_release_that_is_tagged_with_the_commit(github: StandIn, places: FirmwareTable) -> None:
    for number in range(3):
        github.add_release(f"v0.{number}", OTHER_SHA, f"{NAME}.zip", b"no firmware")
    github.tags.append({"name": "not-released", "commit": {"sha": SHA}})
    github.add_release("v1.0", SHA, f"{NAME}.zip", GOOD)

    images = run_fetch(places)

    assert images.source == f"{REPOSITORY} release v1.0 asset {NAME}.zip"
    assert images.content_sha256 == firmware().content_sha256


def test_the_token_goes_to_the_api_and_not_to_the_storage(github: StandIn, places: FirmwareTable) -> None:
    github.add_artifact(NAME, SHA, GOOD)

    run_fetch(places)

    assert {which for which, _, _ in github.asked} == {"api", "storage"}
    for which, _, authorization in github.asked:
        assert authorization == (f"Bearer {TOKEN}" if which == "api" else None)


def test_a_renamed_repository_is_followed_with_the_token(github: StandIn, places: FirmwareTable) -> None:
    github.add_artifact(NAME, SHA, GOOD)
    assert places.github is not None
    old = places.model_copy(update={"github": places.github.model_copy(update={"repository": "owner/old"})})
    for tail in ("/actions/artifacts", "/actions/artifacts/1/zip"):
        query = f"?per_page=100&name={NAME}" if tail.endswith("artifacts") else ""
        github.override[f"/repos/owner/old{tail}"] = Answer(
            301, b"", {"Location": f"{github.api_url}/repos/{REPOSITORY}{tail}{query}"}
        )

    assert run_fetch(old).commit == SHA


def refused(status: int, message: str, **headers: str) -> Answer:
    return as_json({"message": message}, status, **headers)


@pytest.mark.parametrize(
    ("path", "answer", "error", "message"),
    [
        (LIST, refused(401, "Bad credentials"), FirmwareError, "does not accept the token"),
        (
            LIST,
            refused(403, "API rate limit exceeded", X_RateLimit_Remaining="0", X_RateLimit_Reset="1767225600"),
            FirmwareError,
            "try again after 2026-01-01T00:00:00Z",
        ),
        (LIST, refused(403, "You have exceeded a secondary rate limit", Retry_After="60"), FirmwareError, "in 60 s"),
        (LIST, refused(429, "Too many"), FirmwareError, "try again in a minute"),
        (
            LIST,
            refused(403, "Resource not accessible by personal access token", X_RateLimit_Remaining="4999"),
            FirmwareError,
            "403: Resource not accessible by personal access token",
        ),
        (LIST, refused(403, f"your token {TOKEN} is bad"), FirmwareError, r"\(403\)"),
        (LIST, refused(404, "Not Found"), FirmwareMissing, "GitHub shows no artifact"),
        (LIST, refused(500, "Server Error"), FirmwareError, "answered 500 .*try again later"),
        (LIST, Answer(200, b"<html>"), FirmwareError, "is no JSON"),
        (LIST, as_json({"artifacts": 3}), FirmwareError, "is not the JSON"),
        (LIST, as_json([]), FirmwareMissing, "has no artifact"),
        (f"{LIST}/1/zip", refused(410, "Artifact has expired"), FirmwareMissing, "has expired on GitHub"),
        (f"{LIST}/1/zip", Answer(302, b"", {"Location": "http://192.0.2.1/blob"}), FirmwareError, "not https"),
        (f"{LIST}/1/zip", Answer(302, b"", {"Location": f"{LIST}/1/zip"}), FirmwareError, "in circles"),
        ("/blob/1", Answer(403, b"<Error>AuthenticationFailed</Error>"), FirmwareError, "storage at localhost .* 403"),
        ("/blob/1", Answer(200, GOOD[:5000], claimed=len(GOOD)), FirmwareError, "broke off after"),
        ("/blob/1", Answer(200, GOOD[:5000], claimed=-1), FirmwareError, "came damaged"),
        ("/blob/1", Answer(200, GOOD[:-9] + b"x" + GOOD[-8:]), FirmwareError, "came damaged"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    github: StandIn, places: FirmwareTable, path: str, answer: Answer, error: type[FirmwareError], message: str
) -> None:
    github.add_artifact(NAME, SHA, GOOD)
    github.override[path] = answer

    with pytest.raises(error, match=message) as caught:
        run_fetch(places)

    assert TOKEN not in str(caught.value) and "SIGNED" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert places.store is not None and not any(places.store.glob("*/*"))
    for which, _, authorization in github.asked:
        assert which == "api" or authorization is None


def test_an_expired_artifact_is_told_as_such(github: StandIn, places: FirmwareTable) -> None:
    github.add_artifact(NAME, SHA, GOOD, expired=True)

    with pytest.raises(FirmwareMissing, match=r"has expired \(2026-04-01T00:00:00Z\); run the upstream workflow again"):
        run_fetch(places)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:5000], "is no zip archive"),
        (zipped(firmware(chip="esp32s3")), "for the esp32s3"),
        (b"no zip at all", "cannot be used"),
    ],
)
def test_a_zip_that_is_no_firmware_for_the_chip(
    github: StandIn, places: FirmwareTable, data: bytes, message: str
) -> None:
    """GitHub may name no digest for older artifacts, so a cut-off zip is found by looking into it."""
    github.add_artifact(NAME, SHA, data, digest=False)

    with pytest.raises(FirmwareError, match=message) as caught:
        run_fetch(places)
    assert f"{REPOSITORY} artifact 1 of run 1001 cannot be used" in str(caught.value)


def test_a_server_that_is_not_there(places: FirmwareTable, token_file: Path) -> None:
    nowhere = GitHubTable(repository=REPOSITORY, api_url="http://127.0.0.1:9", credentials=token_file)

    with pytest.raises(FirmwareError, match=r"127\.0\.0\.1 cannot be reached .* \(ConnectionError\)"):
        run_fetch(places.model_copy(update={"github": nowhere}))


def test_a_server_that_does_not_answer(github: StandIn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(FirmwareError, match=r"within 0\.2 s"):
        GitHub(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN, timeout_s=0.2).get("/x", "x")


def test_a_next_page_elsewhere_is_not_asked(github: StandIn, places: FirmwareTable) -> None:
    link = f'<{github.storage_url}/steal>; rel="next"'
    github.override[LIST] = as_json({"artifacts": []}, Link=link)

    with pytest.raises(FirmwareError, match="on another host"):
        run_fetch(places)
    assert {which for which, _, _ in github.asked} == {"api"}


def test_a_token_does_not_go_over_the_network_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="use https"):
        GitHub("http://github.example.com/api/v3", TOKEN)
    GitHub("https://github.example.com/api/v3", TOKEN)
    GitHub("http://github.example.com/api/v3", None)


def test_a_netrc_file_is_not_used(
    github: StandIn, places: FirmwareTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text("machine localhost login me password stolen\nmachine 127.0.0.1 login me password stolen\n")
    monkeypatch.setenv("NETRC", str(netrc))
    github.add_artifact(NAME, SHA, GOOD)

    run_fetch(places)

    assert {authorization for _, _, authorization in github.asked} == {f"Bearer {TOKEN}", None}


@pytest.mark.parametrize("path", ["", LIST, f"{LIST}/1/zip", "/blob/1"])
def test_debug_output_never_has_the_token(
    github: StandIn,
    places: FirmwareTable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    github.add_artifact(NAME, SHA, GOOD)
    if path:
        github.override[path] = refused(403, "no")
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with caplog.at_level(logging.DEBUG):
        if path:
            with pytest.raises(FirmwareError):
                run_fetch(places)
        else:
            run_fetch(places)
        logging.getLogger("urllib3").debug("logging works")

    out, err = capfd.readouterr()
    assert TOKEN not in out + err + caplog.text and "Bearer" not in out + err + caplog.text
    assert "logging works" in caplog.text


def fetch_with_hut(lab: Lab, github: StandIn, *arguments: str, token: str | None = TOKEN) -> Finished:
    credentials = lab.home / ".config/hut/credentials"
    if token is not None:
        credentials.mkdir(mode=0o700, parents=True)
        (credentials / "runner.env").touch(mode=0o600)
        (credentials / "runner.env").write_text(f"GITHUB_TOKEN={token}\n")
    (lab.folder / "slots.toml").write_text(
        f'[slots.hut-01]\nvirtual = true\nlock_path = "{lab.lock("hut-01")}"\n'
        f'[firmware.github]\nrepository = "{REPOSITORY}"\napi_url = "{github.api_url}"\n'
    )
    return hut(lab, "firmware", "fetch", SHA, *arguments)


def test_hut_firmware_fetch(lab: Lab, github: StandIn) -> None:
    github.add_artifact(NAME, SHA, GOOD)

    done = fetch_with_hut(lab, github, "--slot", "hut-01")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{SHA} esp32 recovery v1 (")
    assert TOKEN not in done.stdout + done.stderr


def test_hut_firmware_fetch_names_every_place_that_lacks_it(lab: Lab, github: StandIn) -> None:
    (lab.folder / "shared").mkdir()

    done = fetch_with_hut(lab, github, "--shared", "shared")

    assert done.returncode == 3 and ONE_ERROR.fullmatch(done.stderr)
    for words in ("shared has no firmware", "has no artifact", "has no release"):
        assert words in done.stderr


def test_waiting_for_an_artifact_that_is_still_built(
    github: StandIn, places: FirmwareTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upstream lane finishes while the hardware lane waits."""
    assert places.github is not None and places.store is not None
    monkeypatch.setattr(firmware_command, "_places", lambda options: places)
    monkeypatch.setattr(
        firmware_command.time, "sleep", lambda seconds: github.add_artifact(NAME, SHA, GOOD) if seconds > 1 else None
    )

    code = firmware_command.run(parse(["firmware", "fetch", SHA, "--wait", "600"]))

    assert code == 0
    assert "waiting for it, 600 s at most" in capsys.readouterr().err
    assert FirmwareStore(places.store).load(SHA, "esp32").commit == SHA


def test_a_wrong_token_is_refused_without_showing_it(lab: Lab, github: StandIn) -> None:
    done = fetch_with_hut(lab, github, token="wrong-and-secret")

    assert done.returncode == 3 and "does not accept the token" in done.stderr
    assert "wrong-and-secret" not in done.stdout + done.stderr


def test_hut_doctor_looks_at_the_token(places: FirmwareTable, token_file: Path) -> None:
    bench = Bench(firmware=places)
    [good] = doctor_slots.credentials(bench)
    token_file.write_text("")
    [bad] = doctor_slots.credentials(bench)

    assert good.ok and f"{token_file} has GITHUB_TOKEN" in good.text
    assert not bad.ok and "has no line GITHUB_TOKEN" in bad.text
    assert list(doctor_slots.credentials(Bench())) == []


def test_an_artifact_without_a_token(lab: Lab, github: StandIn) -> None:
    github.add_artifact(NAME, SHA, GOOD)

    done = fetch_with_hut(lab, github, token=None)

    assert done.returncode == 3 and "GitHub wants a token (401" in done.stderr


def test_without_a_token_what_is_public_can_be_had(lab: Lab, github: StandIn) -> None:
    github.add_release("v1.0", SHA, f"{NAME}.zip", GOOD)

    assert fetch_with_hut(lab, github, token=None).returncode == 0
    assert {authorization for _, _, authorization in github.asked} == {None}
