"""A small client of GitHub's REST API: pages of JSON, and downloads.

Source: GitHub's "REST API" documents, API version 2022-11-28 ("Using pagination", "Rate limits", "Best practices").
Redirects are followed by hand, so that the token goes to the API's own host and to no other.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from pytest_hut.errors import ConfigError, FirmwareError, FirmwareMissing
from pytest_hut.hub.quiet_http import QuietAdapter

JSON = "application/vnd.github+json"
BYTES = "application/octet-stream"
TIMEOUT_S = 30.0
MAX_DOWNLOAD = 512 * 1024 * 1024
MAX_PAGES = 100
_MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_DEFAULT_PORTS = {"http": 80, "https": 443}


class GitHub:
    """The API at one address, with or without a token. Used as a context manager; close it after use."""

    def __init__(self, api_url: str, token: str | None, timeout_s: float = TIMEOUT_S) -> None:
        """Nothing is sent yet. Raises ConfigError when the token would go over the network in the clear."""
        self._api = api_url.rstrip("/")
        if token and urlsplit(self._api).scheme != "https" and not _is_this_host(self._api):
            raise ConfigError(f"{self._api} is not https, so the token would be readable on the way; use https")
        self._token = token
        self._timeout_s = timeout_s
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, QuietAdapter())
        self._host = urlsplit(self._api).hostname

    def __enter__(self) -> GitHub:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, path: str, what: str) -> dict[str, Any]:
        """Return the JSON object at `path`; `what` is how messages call it.

        Raises:
            FirmwareMissing: there is none (404, 410).
            FirmwareError: anything else that went wrong.
        """
        with self._open(self._api + path, what) as response:
            data = self._json(response, what)
        if not isinstance(data, dict):
            raise FirmwareError(f"GitHub's answer about {what} is not the JSON that its documents promise.")
        return data

    def pages(self, path: str, what: str, key: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page after page; `key` is where they are when a page is an object.

        Raises what `get` raises.
        """
        url: str | None = self._api + path
        for _ in range(MAX_PAGES):
            if url is None:
                return
            with self._open(url, what) as response:
                data = self._json(response, what)
                link = response.links.get("next", {}).get("url")
                url = urljoin(response.url, link) if link else None
            items = data.get(key) if key is not None and isinstance(data, dict) else data
            if not isinstance(items, list):
                raise FirmwareError(f"GitHub's answer about {what} is not the JSON that its documents promise.")
            yield from (item for item in items if isinstance(item, dict))
            if url is not None and not self._is_api(url):
                raise FirmwareError(f"GitHub's next page of {what} is on another host; it is not asked.")
        raise FirmwareError(f"GitHub has more than {MAX_PAGES} pages of {what}; give a name that fewer have.")

    def download(self, path: str, what: str, into: Path, *, accept: str = JSON, digest: str | None = None) -> None:
        """Write the content at `path` to the new file `into`; `digest` is `sha256:<hex>` where the API told it.

        Raises what `get` raises, and FirmwareError when it comes cut short or is not what it should be.
        """
        received = hashlib.sha256()
        size = 0
        try:
            with self._open(self._api + path, what, accept, stream=True) as response, into.open("xb") as file:
                for chunk in response.iter_content(_CHUNK):
                    size += len(chunk)
                    if size > MAX_DOWNLOAD:
                        raise FirmwareError(f"{what} is larger than {MAX_DOWNLOAD >> 20} MiB; that is no firmware.")
                    received.update(chunk)
                    file.write(chunk)
        except requests.RequestException:
            # Its text may carry addresses with signatures in them.
            raise FirmwareError(f"the download of {what} broke off after {size} bytes; try again") from None
        if digest and digest.startswith("sha256:") and digest != f"sha256:{received.hexdigest()}":
            raise FirmwareError(f"{what} came damaged ({size} bytes, and not the SHA-256 that GitHub names); try again")

    def _open(self, url: str, what: str, accept: str = JSON, *, stream: bool = False) -> requests.Response:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(url, what, accept, stream=stream)
            location = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or location is None:
                self._check(response, what)
                return response
            response.close()
            target = urljoin(url, location)
            if urlsplit(target).scheme != "https" and not _is_this_host(target):
                raise FirmwareError(f"GitHub sends us to an address for {what} that is not https; it is not followed.")
            url = target
        raise FirmwareError(f"GitHub sends us in circles for {what}; try again later")

    def _send(self, url: str, what: str, accept: str, *, stream: bool) -> requests.Response:
        ours = self._is_api(url)
        headers = {"Accept": accept if ours else "*/*", "User-Agent": "pytest-hut"}
        if ours:
            headers["X-GitHub-Api-Version"] = "2022-11-28"
        try:
            return self._session.get(
                url,
                headers=headers,
                # Always an authorization of our own, so that none is taken from ~/.netrc.
                auth=_Bearer(self._token if ours else None),
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=stream,
            )
        except requests.Timeout:
            raise FirmwareError(
                f"{_host(url)} did not answer within {self._timeout_s:g} s about {what}; try again"
            ) from None
        except requests.RequestException as error:
            raise FirmwareError(
                f"{_host(url)} cannot be reached for {what} ({type(error).__name__}); check the network"
            ) from None

    def _is_api(self, url: str) -> bool:
        return _origin(url) == _origin(self._api)

    def _json(self, response: requests.Response, what: str) -> Any:
        try:
            return response.json()
        except ValueError:
            raise FirmwareError(f"GitHub's answer about {what} is no JSON; check github.api_url") from None

    def _check(self, response: requests.Response, what: str) -> None:
        status = response.status_code
        if status == 200:
            return
        with response:
            limited = _rate_limit(response)
            said = self._said(response)
        host = _host(response.url)
        if limited:
            raise FirmwareError(f"GitHub's rate limit is used up ({what}); {limited}")
        if not self._is_api(response.url):
            raise FirmwareError(f"the storage at {host} answered {status} for {what}; try again")
        if status == 401:
            wrong = "does not accept the token" if self._token else "wants a token"
            raise FirmwareError(f"GitHub {wrong} (401, {what}); put a valid one into the credentials file")
        if status == 403:
            raise FirmwareError(f"GitHub refuses {what} (403{said}); the token needs the right to read it")
        if status == 404:
            hint = "" if self._token else " (without a token it shows public things only, and no artifact's content)"
            raise FirmwareMissing(f"GitHub shows no {what}{hint}; check the names, and what the token may read")
        if status == 410:
            raise FirmwareMissing(f"{what} has expired on GitHub; run the upstream workflow of that commit again")
        raise FirmwareError(f"GitHub answered {status} for {what}{said}; try again later")

    def _said(self, response: requests.Response) -> str:
        """Return GitHub's own short reason, should it have given one."""
        try:
            message = response.json().get("message")
        except (ValueError, AttributeError, requests.RequestException):
            return ""
        if not isinstance(message, str) or not message.isprintable() or (self._token and self._token in message):
            return ""
        return f": {message[:120]}"


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _rate_limit(response: requests.Response) -> str:
    """Return when to try again, empty when this is no answer about a rate limit."""
    if response.status_code not in (403, 429):
        return ""
    wait = response.headers.get("Retry-After", "")
    if wait.isdecimal():
        return f"try again in {int(wait)} s"
    if response.headers.get("X-RateLimit-Remaining") == "0":
        reset = response.headers.get("X-RateLimit-Reset", "")
        at = int(reset) if reset.isdecimal() and len(reset) < 12 else time.time() + 3600
        return f"try again after {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return "try again in a minute" if response.status_code == 429 else ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the server"


def _is_this_host(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
