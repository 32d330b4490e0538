from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from safekv.attack.target import Target, TargetError, timed


class Ticks:
    """A clock that advances by one second whenever it is read."""

    def __init__(self) -> None:
        self._ticks = count(1)

    def now_s(self) -> float:
        return float(next(self._ticks))


def chat_event(content: str | None, usage: Any = None) -> Any:
    return SimpleNamespace(
        choices=[SimpleNamespace(delta=SimpleNamespace(content=content))], usage=usage
    )


def usage_event(cached: int) -> Any:
    details = SimpleNamespace(cached_tokens=cached)
    return SimpleNamespace(choices=[], usage=SimpleNamespace(prompt_tokens_details=details))


def test_a_role_event_does_not_stop_the_clock() -> None:
    clock = Ticks()

    def events() -> Iterator[Any]:
        yield chat_event("")
        clock.now_s()
        yield chat_event("Hel")
        yield chat_event("lo")
        yield chat_event(None)
        yield usage_event(64)

    probe = timed(events(), clock, 0.0)
    assert (probe.ttft_s, probe.total_s) == (2.0, 3.0)
    assert probe.text == "Hello"
    assert probe.cached_tokens == 64


def test_an_empty_answer_is_timed_to_its_end() -> None:
    probe = timed([chat_event(""), chat_event(None)], Ticks(), 0.0)
    assert probe.ttft_s == probe.total_s == 1.0
    assert probe.cached_tokens is None


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, asked))  # type: ignore[attr-defined]
        if self.headers["Authorization"] != "Bearer good":
            self._send(401, "application/json", b'{"error": {"message": "no"}}')
            return
        choice = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": "hi"}} if "messages" in asked else {"text": "hi"}
        body = json.dumps(
            {"id": "x", "object": "x", "created": 0, "model": "m", "choices": [choice]}
        )
        self._send(200, "text/event-stream", f"data: {body}\n\ndata: [DONE]\n\n".encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def target(server: ThreadingHTTPServer, key: str = "good") -> Target:
    return Target(f"http://127.0.0.1:{server.server_address[1]}/v1", key, "m")


def test_messages_and_text_go_to_their_routes(
    server: ThreadingHTTPServer,
) -> None:
    with target(server) as line:
        assert line.ttft([{"role": "user", "content": "a"}]).text == "hi"
        assert line.ttft("a", max_tokens=3).text == "hi"
    (chat, asked), (text, asked_text) = server.seen  # type: ignore[attr-defined]
    assert (chat, text) == ("/v1/chat/completions", "/v1/completions")
    assert asked["stream"] is True
    assert asked["temperature"] == 0
    assert asked["max_tokens"] == 1
    assert asked_text["max_tokens"] == 3


def test_proxies_of_the_environment_are_ignored(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with target(server) as line:
        assert line.ttft("a").text == "hi"


def test_a_refusal_is_an_error_without_a_retry_and_without_the_key(
    server: ThreadingHTTPServer,
) -> None:
    with target(server, "wrong-key") as line, pytest.raises(TargetError) as caught:
        line.ttft("a")
    assert "401" in caught.value.message
    assert "wrong-key" not in str(caught.value)
    assert len(server.seen) == 1  # type: ignore[attr-defined]
