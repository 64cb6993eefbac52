"""A stand-in for GitHub's REST API and the storage behind it: answers as GitHub's documents describe them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "owner/product"
TOKEN = "github_pat_11SECRETSECRETSECRETSECRET"
PER_PAGE = 2
"""Fewer than the client asks for, so that every list has pages."""


@dataclass
class Answer:
    """One answer; `claimed` is a Content-Length that promises more than comes."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None


def as_json(content: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, json.dumps(content).encode(), {**kind, **named})


@dataclass
class StandIn:
    """Two servers and what they hold. `asked` are (server, path, Authorization) of every request."""

    api_url: str = ""
    storage_url: str = ""
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    blobs: dict[int, bytes] = field(default_factory=dict)
    tags: list[dict[str, Any]] = field(default_factory=list)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    override: dict[str, Answer] = field(default_factory=dict)
    """Answers by path that take the place of the usual ones."""

    def add_artifact(self, name: str, commit: str, data: bytes, *, expired: bool = False, digest: bool = True) -> int:
        number = len(self.artifacts) + 1
        self.blobs[number] = data
        self.artifacts.append(
            {
                "id": number,
                "name": name,
                "size_in_bytes": len(data),
                "expired": expired,
                "created_at": f"2026-01-{number:02}T00:00:00Z",
                "expires_at": f"2026-04-{number:02}T00:00:00Z",
                "digest": f"sha256:{hashlib.sha256(data).hexdigest()}" if digest else None,
                "workflow_run": {"id": 1000 + number, "head_branch": "main", "head_sha": commit},
            }
        )
        return number

    def add_release(self, tag: str, commit: str, asset: str, data: bytes) -> None:
        number = 500 + len(self.releases)
        self.blobs[number] = data
        self.tags.append({"name": tag, "commit": {"sha": commit}})
        self.releases[tag] = {"tag_name": tag, "assets": [{"id": number, "name": asset, "digest": None}]}

    def answer_api(self, path: str, query: dict[str, list[str]], authorization: str | None) -> Answer:
        """Answer as api.github.com."""
        if path in self.override:
            return self.override[path]
        if authorization is not None and authorization != f"Bearer {TOKEN}":
            return as_json({"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest"}, 401)
        base = f"/repos/{REPOSITORY}"
        tail = path.removeprefix(base)
        not_found = as_json({"message": "Not Found", "status": "404"}, 404)
        if tail == path:
            return not_found
        if tail == "/actions/artifacts":
            name = query.get("name", [None])[0]
            wanted = [artifact for artifact in self.artifacts if name in (None, artifact["name"])]
            return self._page(path, query, wanted, "artifacts")
        if tail == "/tags":
            return self._page(path, query, self.tags, None)
        if tail.startswith("/releases/tags/"):
            release = self.releases.get(tail.removeprefix("/releases/tags/"))
            return as_json(release) if release else not_found
        parts = tail.strip("/").split("/")
        number = next((int(part) for part in parts if part.isdecimal()), 0)
        if number not in self.blobs:
            return not_found
        if parts[:2] == ["actions", "artifacts"] and authorization is None:
            return as_json({"message": "Requires authentication"}, 401)
        return Answer(302, b"", {"Location": f"{self.storage_url}/blob/{number}?sig=SIGNED&se=2026"})

    def answer_storage(self, path: str) -> Answer:
        """Answer as the storage that downloads are redirected to."""
        if path in self.override:
            return self.override[path]
        return Answer(200, self.blobs[int(path.rsplit("/", 1)[1])], {"Content-Type": "application/zip"})

    def _page(self, path: str, query: dict[str, list[str]], items: list[dict[str, Any]], key: str | None) -> Answer:
        number = int(query.get("page", ["1"])[0])
        shown = items[(number - 1) * PER_PAGE : number * PER_PAGE]
        links = {}
        if number * PER_PAGE < len(items):
            rest = "&".join(f"{name}={values[0]}" for name, values in query.items() if name != "page")
            links = {
                "Link": f'<{self.api_url}{path}?{rest}&page={number + 1}>; rel="next", <{self.api_url}>; rel="last"'
            }
        return as_json({"total_count": len(items), key: shown} if key else shown, **links)


@contextmanager
def github_stand_in() -> Iterator[StandIn]:
    """Serve both while inside."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            which = "api" if self.server is api else "storage"
            authorization = self.headers.get("Authorization")
            stand_in.asked.append((which, self.path, authorization))
            if which == "api":
                answer = stand_in.answer_api(parts.path, parse_qs(parts.query), authorization)
            else:
                answer = stand_in.answer_storage(parts.path)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.claimed != -1:
                self.send_header("Content-Length", str(answer.claimed or len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as api,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as storage,
    ):
        stand_in.api_url = f"http://127.0.0.1:{api.server_port}"
        stand_in.storage_url = f"http://localhost:{storage.server_port}"
        for server in (api, storage):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield stand_in
        finally:
            api.shutdown()
            storage.shutdown()
