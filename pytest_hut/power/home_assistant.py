"""A relay that is an entity of Home Assistant, driven over its REST API.

Facts this is built on, measured on the real server: a service call answers 200 whether or not anything happened, so
only the state read back counts, and that only while the server says it is RUNNING; a wrong token must not be tried
again, since the server may ban the address.
"""

from __future__ import annotations

from typing import Any

import requests

from pytest_hut.bench.models import HomeAssistant
from pytest_hut.errors import RelayError
from pytest_hut.power.credentials import default_credentials_file, read_secret
from pytest_hut.power.driver import RelayRefused, RelayTimeout


class HomeAssistantDriver:
    """One `switch`, `light` or `input_boolean` entity."""

    def __init__(self, server: HomeAssistant, entity: str) -> None:
        """Read the token (raises ConfigError); nothing is sent yet."""
        self.name = entity
        self._url = server.url.rstrip("/")
        self._timeout_s = server.timeout_s
        self._session = requests.Session()
        # No proxy, no .netrc: the token must go to this server and nowhere else.
        self._session.trust_env = False
        token = read_secret(server.credentials or default_credentials_file(), server.token_name)
        self._session.headers["Authorization"] = f"Bearer {token}"

    def check(self) -> None:
        """See `RelayDriver.check`."""
        server_state = self._request("GET", "/api/core/state").get("state")
        if server_state != "RUNNING":
            raise RelayError(f"Home Assistant at {self._url} is not running yet (it says {server_state!r})")
        state = self.state()
        if state not in ("on", "off"):
            raise RelayError(f"{self.name} is {state!r}, neither on nor off; check the relay in Home Assistant")

    def command(self, on: bool) -> None:
        """See `RelayDriver.command`."""
        domain = self.name.partition(".")[0]
        service = "turn_on" if on else "turn_off"
        self._request("POST", f"/api/services/{domain}/{service}", {"entity_id": self.name})

    def state(self) -> str:
        """See `RelayDriver.state`."""
        return str(self._request("GET", f"/api/states/{self.name}").get("state"))

    def close(self) -> None:
        """See `RelayDriver.close`."""
        self._session.close()

    def _request(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            response = self._session.request(
                method, self._url + path, json=body, timeout=self._timeout_s, allow_redirects=False
            )
        except requests.Timeout:
            raise RelayTimeout(f"Home Assistant at {self._url} did not answer within {self._timeout_s:g} s") from None
        except requests.RequestException as error:
            # The class says enough; the text of a requests error can carry the whole request.
            raise RelayError(f"Home Assistant at {self._url} cannot be reached ({type(error).__name__})") from None
        if response.status_code in (401, 403):
            raise RelayRefused(
                f"Home Assistant at {self._url} refuses the token ({response.status_code}); put a valid one into the "
                "credentials file (it is not tried again, so that the address is not banned)"
            )
        if response.status_code == 404:
            raise RelayRefused(f"Home Assistant at {self._url} knows no {self.name}; check the entity id of the relay")
        if response.status_code == 504:
            raise RelayTimeout(f"Home Assistant at {self._url} timed out on the device of {self.name}")
        if response.status_code != 200:
            raise RelayError(f"Home Assistant at {self._url} answered {response.status_code} for {self.name}")
        try:
            data = response.json()
        except ValueError:
            raise RelayError(f"Home Assistant at {self._url} answered something that is no JSON") from None
        return data if isinstance(data, dict) else {}
