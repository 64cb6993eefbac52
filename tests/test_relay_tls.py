"""A token goes only to a Home Assistant whose certificate is trusted."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pytest_hut.bench.load import load_bench
from pytest_hut.bench.models import HomeAssistant
from pytest_hut.errors import ConfigError, RelayError
from pytest_hut.power.driver import RelayRefused
from pytest_hut.power.home_assistant import HomeAssistantDriver


class Answers(http.server.BaseHTTPRequestHandler):
    """Says of everything that it is running and on, and keeps the tokens it was sent."""

    tokens: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        body = json.dumps({"state": "RUNNING" if self.path.endswith("/core/state") else "on"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def self_signed(folder: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HomeAssistant]:
    """The settings for an https server whose certificate nobody knows yet; it is `server.pem`."""
    credentials = tmp_path / "credentials" / "runner.env"
    credentials.parent.mkdir(mode=0o700)
    credentials.touch(mode=0o600)
    credentials.write_text("HOME_ASSISTANT_TOKEN=the-token\n")
    Answers.tokens.clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as https:
        https.socket = context.wrap_socket(https.socket, server_side=True)
        threading.Thread(target=https.serve_forever, daemon=True).start()
        yield HomeAssistant(url=f"https://127.0.0.1:{https.server_port}", credentials=credentials)
        https.shutdown()


def test_a_certificate_that_nobody_vouches_for_is_refused(server: HomeAssistant) -> None:
    with pytest.raises(RelayRefused, match=r"not trusted.*ca_file"):
        HomeAssistantDriver(server, "switch.x").state(5)
    assert Answers.tokens == []


def test_an_authority_of_ones_own_can_be_named(server: HomeAssistant, tmp_path: Path) -> None:
    driver = HomeAssistantDriver(server.model_copy(update={"ca_file": tmp_path / "server.pem"}), "switch.x")
    assert driver.state(5) == "on"
    driver.close()
    assert Answers.tokens == ["Bearer the-token"] * 2


def test_an_authority_that_is_not_there_is_told_at_once(server: HomeAssistant, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca_file .*nowhere\.pem: there is no such file"):
        HomeAssistantDriver(server.model_copy(update={"ca_file": tmp_path / "nowhere.pem"}), "switch.x")


def test_a_file_that_is_no_certificate_is_relay_trouble(server: HomeAssistant) -> None:
    driver = HomeAssistantDriver(server.model_copy(update={"ca_file": server.credentials}), "switch.x")
    with pytest.raises(RelayError, match="Home Assistant") as caught:
        driver.state(5)
    assert "the-token" not in str(caught.value)


def test_a_token_that_no_header_can_carry_is_told_without_showing_it(server: HomeAssistant) -> None:
    assert server.credentials is not None
    server.credentials.write_text("HOME_ASSISTANT_TOKEN=sm\N{LATIN SMALL LETTER A WITH RING ABOVE}rt\n")
    with pytest.raises(ConfigError, match="is no token") as caught:
        HomeAssistantDriver(server, "switch.x")
    assert "\N{LATIN SMALL LETTER A WITH RING ABOVE}" not in str(caught.value)


def test_proxies_of_the_environment_do_not_get_the_token(
    server: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    driver = HomeAssistantDriver(server.model_copy(update={"ca_file": tmp_path / "server.pem"}), "switch.x")
    assert driver.state(5) == "on"
    driver.close()


def test_the_authority_is_named_beside_slots_toml(tmp_path: Path) -> None:
    path = tmp_path / "slots.toml"
    path.write_text('[home_assistant]\nurl = "https://ha"\nca_file = "ca.pem"\n[slots.hut-01]\nvirtual = true\n')
    settings = load_bench(path).home_assistant
    assert settings is not None and settings.ca_file == tmp_path / "ca.pem"
