"""A relay that is an entity of Home Assistant, driven over its REST API.

Facts this is built on, measured on the real server: a service call answers 200 whether or not anything happened, so
only the state read back counts, and that only while the server says it is RUNNING: before, it answers 404 and then a
state that is not true. A slow action blocks its request, and happens even if the client gives up. A wrong token must
not be tried again, since the server may ban the address.

See https://developers.home-assistant.io/docs/api/rest/
"""

from __future__ import annotations

from typing import Any

import requests
from urllib3.util import Timeout

from pytest_hut.bench.models import HomeAssistant
from pytest_hut.errors import ConfigError, RelayError
from pytest_hut.power.credentials import default_credentials_file, read_secret
from pytest_hut.power.driver import RelayRefused, RelayTimeout, RelayUnknown

LEAST_TIMEOUT_S = 0.05
"""A deadline that is nearly over must not become a time-out of zero, which the HTTP client refuses."""


class HomeAssistantDriver:
    """One `switch`, `light` or `input_boolean` entity."""

    def __init__(self, server: HomeAssistant, entity: str) -> None:
        """Read the token; nothing is sent yet. Raises ConfigError: the credentials or the ca_file are unusable."""
        self.name = entity
        self._url = server.url.rstrip("/")
        self._timeout_s = server.timeout_s
        self._session = requests.Session()
        # No proxy, no .netrc: the token must go to this server and nowhere else.
        self._session.trust_env = False
        if server.ca_file is not None:
            if not server.ca_file.is_file():
                raise ConfigError(f"ca_file {server.ca_file}: there is no such file; correct it in slots.toml")
            self._session.verify = str(server.ca_file)
        credentials = server.credentials or default_credentials_file()
        token = read_secret(credentials, server.token_name)
        if not token.isascii() or not token.isprintable():
            raise ConfigError(f"{server.token_name} in {credentials} is no token; copy it from Home Assistant again")
        self._session.headers["Authorization"] = f"Bearer {token}"
        self._refused: RelayRefused | None = None

    def state(self, within_s: float) -> str | None:
        """See `RelayDriver.state`. Two requests, each of at most half the time."""
        # In this order: a server that was restarted in between has dropped the connection, and is found out.
        server_state = self._request("GET", "/api/core/state", within_s / 2).get("state")
        if server_state != "RUNNING":
            raise RelayError(f"Home Assistant at {self._url} is not running yet (it says {server_state!r})")
        return str(self._request("GET", f"/api/states/{self.name}", within_s / 2).get("state"))

    def command(self, on: bool, within_s: float) -> None:
        """See `RelayDriver.command`."""
        domain = self.name.partition(".")[0]
        service = "turn_on" if on else "turn_off"
        self._request("POST", f"/api/services/{domain}/{service}", within_s, {"entity_id": self.name})

    def close(self) -> None:
        """See `RelayDriver.close`."""
        self._session.close()

    def _request(self, method: str, path: str, within_s: float, body: dict[str, str] | None = None) -> dict[str, Any]:
        if self._refused is not None:
            raise self._refused
        limit_s = max(LEAST_TIMEOUT_S, min(self._timeout_s, within_s))
        try:
            response = self._session.request(
                method,
                self._url + path,
                json=body,
                timeout=Timeout(total=limit_s),  # type: ignore[arg-type]  # The stubs do not know it.
                allow_redirects=False,
            )
        except requests.Timeout:
            raise RelayTimeout(f"Home Assistant at {self._url} did not answer within {limit_s:.3g} s") from None
        except requests.exceptions.SSLError:
            raise RelayRefused(
                f"the certificate of Home Assistant at {self._url} is not trusted; if its authority is your own, "
                "name its certificate as ca_file in [home_assistant] (nothing was sent)"
            ) from None
        except OSError as error:  # All of requests' own errors are, and so is an unusable ca_file.
            # The class says enough; the text of a requests error can carry the whole request.
            raise RelayError(f"Home Assistant at {self._url} cannot be reached ({type(error).__name__})") from None
        if response.status_code in (401, 403):
            self._refused = RelayRefused(
                f"Home Assistant at {self._url} refuses the token ({response.status_code}); put a valid one into the "
                "credentials file (it is not tried again, so that the address is not banned)"
            )
            raise self._refused
        if response.status_code == 404:
            raise RelayUnknown(f"Home Assistant at {self._url} knows no {self.name}; check the entity id of the relay")
        if response.status_code == 504:
            raise RelayTimeout(f"Home Assistant at {self._url} timed out on the device of {self.name}")
        if response.status_code != 200:
            raise RelayError(f"Home Assistant at {self._url} answered {response.status_code} for {self.name}")
        try:
            data = response.json()
        except ValueError:
            raise RelayError(f"Home Assistant at {self._url} answered something that is no JSON") from None
        return data if isinstance(data, dict) else {}
