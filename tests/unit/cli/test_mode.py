"""`safekv mode` against a server double: what it asks, what it prints, how it exits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from safekv.cli.mode import mode
from safekv.errors import SafeKVError

KEY = "skv_0123456789ab_secret"


class Double(BaseHTTPRequestHandler):
    """Answers what the gateway would; remembers what it was asked."""

    asked: ClassVar[list[tuple[str, str, object]]] = []

    def _answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, self.path, body))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._answer(404, {"error": {"message": "no such route"}})
        elif body and body["mode"] == "unsafe-global":
            self._answer(409, {"error": {"message": "it shares more"}})
        elif body:
            self._answer(200, {**body, "profile": "paper", "demoted_blocks": 3})
        else:
            self._answer(200, {"mode": "selective", "profile": "paper"})

    do_GET = do_PUT = _serve  # noqa: N815 - the names are the library's

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Double)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Double.asked.clear()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call(*args: str, key: str | None = KEY) -> tuple[int, str]:
    env = {"SAFEKV_OPERATOR_KEY": key}
    result = CliRunner().invoke(mode, args, env=env)
    if isinstance(result.exception, SafeKVError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.stdout


def test_it_shows_and_sets(url: str, tmp_path: Path) -> None:
    assert call("--url", url) == (0, "mode selective, profile paper\n")
    (tmp_path / "key").write_text(KEY + "\n")
    code, shown = call("isolated", "--url", url, "--key", str(tmp_path / "key"), "--json", key=None)
    assert code == 0
    assert json.loads(shown) == {"mode": "isolated", "profile": "paper", "demoted_blocks": 3}
    assert Double.asked == [
        ("GET", "/v1/admin/mode", None),
        ("PUT", "/v1/admin/mode", {"mode": "isolated", "profile": None}),
    ]


def test_what_would_share_more_is_a_wrong_use(url: str) -> None:
    assert call("unsafe-global", "--url", url) == (2, "it shares more")


def test_a_key_that_is_no_operators_fails(url: str) -> None:
    code, said = call("isolated", "--url", url, key="skv_0123456789ab_other")
    assert code == 1
    assert "does not take this key" in said
    assert "other" not in said


def test_without_a_key_or_a_server_it_says_so() -> None:
    assert call("isolated", key=None)[0] == 2
    assert call("isolated", "--url", "http://127.0.0.1:9")[0] == 1
    assert call("isolated", "--url", "file:///etc/passwd")[0] == 2
    assert call("--profile", "paper")[0] == 2
