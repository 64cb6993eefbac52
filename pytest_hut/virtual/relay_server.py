"""The relays of a virtual bench over the Home Assistant REST API, on loopback, for whoever knows the token.

Beside what Home Assistant has, `/api/virtual/` shows the boards and sets their faults:
`GET /api/virtual/boards` and `POST /api/virtual/<slot>/faults` with the fields of `spec.Faults`.
"""

from __future__ import annotations

import hmac
import json
import secrets
import select
import socket
import socketserver
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from pytest_hut.bench.virtual_board import Faults
from pytest_hut.virtual.board import VirtualBoard
from pytest_hut.virtual.home_assistant_states import BadService, RelayStates
from pytest_hut.virtual.reactor import Reactor

TOKEN_NAME = "HOME_ASSISTANT_TOKEN"
_BODY_LIMIT = 65536


class _Refusal(Exception):
    """An answer that is not 200; `message` as JSON, or the bare status line as the real server's framework does."""

    def __init__(self, status: HTTPStatus, message: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.message = message


class RelayServer:
    """Serves until closed. The token is in `credentials`, readable by its owner only."""

    def __init__(self, boards: Mapping[str, VirtualBoard], reactor: Reactor, credentials_dir: Path) -> None:
        """Listen on a free port of 127.0.0.1; `boards` by slot id."""
        self.token = secrets.token_urlsafe(32)
        self.credentials = credentials_dir / "runner.env"
        _write_private(self.credentials, f"{TOKEN_NAME}={self.token}\n")
        self._reactor = reactor
        self._http = _Http(_Api(boards), self.token)
        reactor.register(self._http.fileno(), select.EPOLLIN, self._http.handle_request)

    @property
    def url(self) -> str:
        """Base URL, without `/api`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        """Hang up on all clients; the reactor must have stopped. Removes the credentials file."""
        self._reactor.unregister(self._http.fileno())
        self._http.server_close()
        self.credentials.unlink(missing_ok=True)


class _Api:
    """Paths and methods to answers."""

    def __init__(self, boards: Mapping[str, VirtualBoard]) -> None:
        self._boards = boards
        self._states = RelayStates(boards)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """Return the JSON-ready answer; raises _Refusal."""
        routes: dict[str, Callable[[], Any]]
        match path.strip("/").split("/"):
            case ["api"]:
                routes = {"GET": lambda: {"message": "API running."}}
            case ["api", "core", "state"]:
                recorder = {"migration_in_progress": False, "migration_is_live": False}
                routes = {"GET": lambda: {"state": "RUNNING", "recorder_state": recorder}}
            case ["api", "states"]:
                routes = {"GET": self._states.all}
            case ["api", "states", name]:
                routes = {"GET": lambda: self._state(name)}
            case ["api", "services", domain, service]:
                routes = {"POST": lambda: self._call(domain, service, body)}
            case ["api", "virtual", "boards"]:
                routes = {"GET": self._describe_boards}
            case ["api", "virtual", slot_id, "faults"]:
                routes = {"POST": lambda: self._set_faults(slot_id, body)}
            case _:
                raise _Refusal(HTTPStatus.NOT_FOUND)
        if method not in routes:
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        return routes[method]()

    def _state(self, name: str) -> dict[str, Any]:
        state = self._states.get(name.lower())
        if state is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "Entity not found.")
        return state

    def _call(self, domain: str, service: str, body: bytes) -> list[dict[str, Any]]:
        try:
            return self._states.call(domain, service, _parse(body))
        except BadService:
            raise _Refusal(HTTPStatus.BAD_REQUEST) from None

    def _describe_boards(self) -> dict[str, Any]:
        return {
            slot_id: board.describe() | {"powered": board.powered, "faults": vars(board.faults)}
            for slot_id, board in self._boards.items()
        }

    def _set_faults(self, slot_id: str, body: bytes) -> dict[str, Any]:
        board = self._boards.get(slot_id)
        if board is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "Board not found.")
        try:
            faults = Faults(**_parse(body))
        except TypeError as error:
            raise _Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        board.set_faults(faults)
        return vars(faults)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "Data should be valid JSON.") from None


class _Http(ThreadingHTTPServer):
    """Accepts when the reactor says so; one thread a connection."""

    daemon_threads = True
    timeout = 0  # handle_request() never waits

    def __init__(self, api: _Api, token: str) -> None:
        self.api = api
        self.authorization = f"Bearer {token}".encode()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Bind without asking DNS for the host's name, as the base class would."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # its client was faster
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle of its request is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: standard error is for trouble."""

    def _handle(self) -> None:
        server = cast(_Http, self.server)
        try:
            body = self._read_body()
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, server.authorization):
                raise _Refusal(HTTPStatus.UNAUTHORIZED)
            answer = server.api.answer(self.command, self.path.partition("?")[0], body)
        except _Refusal as refusal:
            self._refuse(refusal)
        else:
            self._reply(HTTPStatus.OK, "application/json", json.dumps(answer))

    def _read_body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= _BODY_LIMIT:
            self.close_connection = True
            raise _Refusal(HTTPStatus.BAD_REQUEST)
        return self.rfile.read(length)

    def _refuse(self, refusal: _Refusal) -> None:
        if refusal.message is None:
            text = f"{refusal.status.value}: {refusal.status.phrase}"
            self._reply(refusal.status, "text/plain; charset=utf-8", text)
        else:
            self._reply(refusal.status, "application/json", json.dumps({"message": refusal.message}))

    def _reply(self, status: HTTPStatus, content_type: str, text: str) -> None:
        """Send head and body in one segment, so that neither waits for an acknowledgement of the other."""
        body = text.encode()
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            *(["Connection: close"] if self.close_connection else []),
        ]
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
