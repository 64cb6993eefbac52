"""Run the real server, and do to it what happens to servers."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from pytest_hut.bench.models import HomeAssistant

HERE = Path(__file__).parent
START_S = 60.0
STOP_S = 30.0
LOOK_EVERY_S = 0.05
_PR_SET_PDEATHSIG = 1


class HomeAssistantServer:
    """A server with one user and one long-lived token, stopped until `start`; its state outlives restarts."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel takes the thread that started it for the parent, and that has to live as long as this process.
        self._launcher = ThreadPoolExecutor(1)
        self._config = folder / "config"
        self._config.mkdir(parents=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (self._config / "configuration.yaml").write_bytes((HERE / "configuration.yaml").read_bytes())
        (self._config / "secrets.yaml").write_text(f"port: {self.port}\n")
        self._http = requests.Session()
        self._http.trust_env = False
        self.credentials = folder / "credentials" / "runner.env"

    def start(self) -> None:
        """Start it and return once it is RUNNING; the first time, make the user and the token."""
        self.launch()
        self.wait_until_running()

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._process = self._launcher.submit(self._launch).result()

    def wait_until_running(self) -> None:
        """Wait until it says so itself."""
        deadline = time.monotonic() + START_S
        while not self._is_running():
            assert self._process is not None and self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"not running after {START_S} s\n{self.log()}"
            threading.Event().wait(LOOK_EVERY_S)

    def stop(self) -> None:
        """End it in the orderly way, in which it writes its state down."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_S)

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_S)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Stop it, start it, and do not wait until it is ready."""
        self.stop()
        self.launch()

    def state(self, entity: str) -> str:
        """Return an entity's state; the server has to be RUNNING."""
        return str(self._get(f"/api/states/{entity}").json()["state"])

    def set(self, name: str, on: bool) -> None:
        """Set an input_boolean, e.g. the contact of a relay, as if by hand."""
        answer = self._http.post(
            f"{self.url}/api/services/input_boolean/turn_{'on' if on else 'off'}",
            json={"entity_id": f"input_boolean.{name}"},
            timeout=START_S,
        )
        answer.raise_for_status()
        assert self.state(f"input_boolean.{name}") == ("on" if on else "off")

    def raw_state(self, entity: str) -> tuple[str, str] | None:
        """Return what it says now about itself and an entity, whether or not that is true; None while it is deaf."""
        try:
            server = self._get("/api/core/state")
            answer = self._get(f"/api/states/{entity}")
        except requests.RequestException:
            return None
        return str(server.json().get("state")), str(answer.json().get("state"))

    def settings(self, url: str | None = None, credentials: Path | None = None, timeout_s: float = 10) -> HomeAssistant:
        """Return the `[home_assistant]` table for it."""
        return HomeAssistant(url=url or self.url, credentials=credentials or self.credentials, timeout_s=timeout_s)

    def log(self) -> str:
        """Return the end of what it printed."""
        return (self.folder / "output.log").read_text(errors="replace")[-4000:]

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [str(self._python), "-m", "homeassistant", "--skip-pip", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def _is_running(self) -> bool:
        try:
            if not self.credentials.exists():
                if self._get("/api/onboarding").status_code != requests.codes.ok:
                    return False
                self._onboard()
            return bool(self._get("/api/core/state").json().get("state") == "RUNNING")
        except (requests.ConnectionError, requests.Timeout):
            return False

    def _get(self, path: str) -> requests.Response:
        return self._http.get(self.url + path, timeout=START_S)

    def _onboard(self) -> None:
        done = subprocess.run(
            [str(self._python), str(HERE / "onboard.py"), self.url], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        token = done.stdout.strip()
        deadline = time.monotonic() + START_S
        # The server writes it down a second later; stopped before that, it would not know the token any more.
        storage = self._config / ".storage" / "auth"
        while not (storage.exists() and '"long_lived_access_token"' in storage.read_text()):
            assert time.monotonic() < deadline, "the token was not written down"
            threading.Event().wait(LOOK_EVERY_S)
        self.credentials.parent.mkdir(mode=0o700)
        self.credentials.touch(mode=0o600)
        self.credentials.write_text(f"HOME_ASSISTANT_TOKEN={token}\n")
        self._http.headers["Authorization"] = f"Bearer {token}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """Runs in the child: whatever ends the tests must not leave a server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
