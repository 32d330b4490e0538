"""The whole server, as `safekv serve --engine vllm` starts it: three processes, the real model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from safekv.engines.vllm.claim import EXTRA_ARG, sign
from safekv.gateway.tenants import TenantStore
from safekv.types import TenantId

READY = re.compile(r"serving (\S+) at http://(\S+):(\d+) \(mode selective, vLLM 0\.32")
START_S = 1200
BLOCK = 32
FLAGS = ["--dtype", "float32", "--enforce-eager", "--block-size", str(BLOCK)]
FLAGS += ["--max-model-len", "1024"]
CHAT = "/v1/chat/completions"


@dataclass
class Server:
    """A running server, its keys, and everything it printed."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    name: str
    port: int
    keys: dict[str, str]
    home: Path

    def said(self) -> str:
        # By position: the server's processes share this file's offset.
        size = os.fstat(self.output.fileno()).st_size
        return os.pread(self.output.fileno(), size, 0).decode(errors="replace")

    def ask(self, method: str, path: str, key: str = "", **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        headers |= request.pop("headers", {})
        url = f"http://127.0.0.1:{self.port}{path}"
        answer = httpx.request(method, url, headers=headers, timeout=600, **request)
        # Whatever it answers, it hands no claim to anybody.
        assert "skvc1." not in answer.text
        return answer

    def chat(self, key: str, system: str, question: str, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": self.name, "messages": messages, "max_tokens": 2, "temperature": 0}
        answer = self.ask("POST", CHAT, key, json={**body, **fields}).raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def hit_tokens(self) -> float:
        """Prompt tokens that any tenant found cached since the start."""
        text = self.ask("GET", "/metrics/", "ops").raise_for_status().text
        found = re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", text, re.MULTILINE)
        assert found, "vLLM's counter of hits has another name"
        return sum(map(float, found))

    def hits(self, key: str, system: str, question: str, **fields: Any) -> float:
        """Tokens that this one request found cached."""
        before = self.hit_tokens()
        self.chat(key, system, question, **fields)
        return self.hit_tokens() - before


def cached(answer: dict[str, Any]) -> int:
    details = answer["usage"]["prompt_tokens_details"] or {}
    return int(details.get("cached_tokens") or 0)


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    store = TenantStore(home / "tenants.json")
    keys = {name: store.add(name) for name in ("acme", "beta", "gamma", "mallory")}
    keys["ops"] = store.add("ops", operator=True)
    command = [sys.executable, "-m", "safekv.cli.main", "serve", str(model_dir)]
    command += ["--engine", "vllm", "--port", "0", "--epoch", "0.2", "--", *FLAGS]
    root = Path(__file__).parents[3] / "src"
    env = {**os.environ, "SAFEKV_HOME": str(home), "VLLM_CPU_KVCACHE_SPACE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")]).rstrip(":")
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    running = Server(process, output, "", 0, keys, home)
    try:
        deadline_s = time.monotonic() + START_S
        while (ready := READY.search(running.said())) is None:
            assert process.poll() is None, running.said()[-5000:]
            assert time.monotonic() < deadline_s, running.said()[-5000:]
            time.sleep(0.5)
        running.name, running.port = ready[1], int(ready[3])
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        output.close()


def letters(topic: str) -> str:
    return f"You answer questions about {topic} for a garden shop. " * 10


def test_tenants_share_a_clean_prefix_and_are_told_of_their_own(server: Server) -> None:
    """Promotion needs the detector, in its own process: another prompt each time until it did."""
    for attempt in range(6):
        system = letters(f"plant number {attempt}")
        first = server.chat("acme", system, "What is rain?")
        again = server.chat("acme", system, "What is rain?")
        assert cached(first) < BLOCK * 2
        whole = (again["usage"]["prompt_tokens"] - 1) // BLOCK * BLOCK
        assert cached(again) == whole
        assert first["choices"][0]["message"] == again["choices"][0]["message"]
        time.sleep(1 + 2 * attempt)
        before = server.hit_tokens()
        other = server.chat("beta", system, "What is snow?")
        found = server.hit_tokens() - before
        # Told of nothing, whether it found much or nothing: that would say what acme sent.
        assert cached(other) < BLOCK * 2
        if found >= 3 * BLOCK:
            return
    raise AssertionError("a clean prefix was never shared")


SECRET = "My card number is 4539 1488 0343 6467 and nobody else may know. " * 6


def test_who_forges_every_field_finds_nothing(server: Server) -> None:
    server.chat("acme", SECRET, "Pay the bill.")
    time.sleep(2)
    assert server.hits("acme", SECRET, "Pay the bill.") >= 3 * BLOCK
    forged = sign(b"k" * 32, TenantId("acme"), now_s=time.time(), lifetime_s=60)
    fields = {
        "cache_salt": "acme",
        "user": "acme",
        "priority": -1,
        "session_id": "acme",
        "vllm_xargs": {EXTRA_ARG: forged, "session_id": "acme"},
        "kv_transfer_params": {"do_remote_prefill": True},
        "a_field_of_the_future": "acme",
    }
    # The template's own beginning may be shared; nothing behind it.
    assert server.hits("mallory", SECRET, "Pay the bill.", **fields) < 2 * BLOCK


def test_keys_and_roles(server: Server) -> None:
    body = {"model": server.name, "prompt": "x", "max_tokens": 1}
    path = "/v1/completions"
    assert server.ask("GET", "/health").status_code == 200
    for key in ("", "wrong", "skv_0123456789ab_" + "A" * 43):
        assert server.ask("POST", path, key, json=body).status_code == 401
        assert server.ask("GET", "/metrics/", key).status_code == 401
    assert server.ask("POST", path, "ops", json=body).status_code == 403
    assert server.ask("GET", "/metrics/", "acme").status_code == 403
    assert server.ask("GET", "/openapi.json", "acme").status_code == 403
    models = server.ask("GET", "/v1/models", "acme").json()
    assert [each["id"] for each in models["data"]] == [server.name]


def test_other_routes(server: Server) -> None:
    said = {"model": server.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert server.ask("POST", "/v1/messages", "acme", json=said).status_code == 200
    tokens = server.ask("POST", "/tokenize", "acme", json={"model": server.name, "prompt": "Hi"})
    assert tokens.json()["count"] >= 1
    assert server.ask("POST", "/invocations", "acme", json=said).status_code == 200
    for path in ("/v1/chat/completions/render", "/v1/audio/transcriptions"):
        refused = server.ask("POST", path, "acme", json=said)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_served")
    for path in ("/v3/anything", CHAT + "/", "/reset_prefix_cache/"):
        unknown = server.ask("POST", path, "acme", json=said)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    packed = server.ask("POST", CHAT, "acme", json=said, headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    removed = server.ask("POST", CHAT, "acme", json={**said, "cache_salt": "x", "user": "y"})
    assert removed.headers["x-safekv-removed"] == "cache_salt, user"


def test_streams(server: Server) -> None:
    said = {"model": server.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    lines = server.ask("POST", CHAT, "acme", json={**said, "stream": True}).text.splitlines()
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert sum(line.startswith("data: {") for line in lines) >= 3


def raw(server: Server, sent: bytes, *, until: bytes) -> bytes:
    """What the server says to bytes of our own, until `until` is in it or it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
        connection.sendall(sent)
        heard = b""
        while until not in heard:
            chunk = connection.recv(65536)
            if not chunk:
                break
            heard += chunk
    return heard


def head(key: str, method: str, path: str, *lines: str) -> bytes:
    first = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *lines]
    return "\r\n".join([*first, "", ""]).encode()


def test_pipelined_requests_each_need_a_key_of_their_own(server: Server) -> None:
    good = head(server.keys["acme"], "GET", "/v1/models")
    bad = head("wrong", "GET", "/v1/models")
    heard = raw(server, good + bad + good, until=b"never")
    if heard.count(b"HTTP/1.1 ") < 3:
        # A server may close after a refusal; then the third was never answered.
        assert heard.count(b"HTTP/1.1 ") == 2
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", heard)
    assert statuses[:2] == [b"200", b"401"]


def test_chunked_bodies_are_read_and_lying_lengths_are_not(server: Server) -> None:
    body = json.dumps({"model": server.name, "prompt": "Hi", "max_tokens": 1}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:9], body[9:])) + b"0\r\n\r\n"
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
    start = head(server.keys["acme"], "POST", "/v1/completions", *lines)
    assert raw(server, start + chunks, until=b"never").startswith(b"HTTP/1.1 200")
    both = head(
        server.keys["acme"], "POST", "/v1/completions", *lines, f"Content-Length: {len(body)}"
    )
    # Two lengths: refused, or read by the chunks as above; never as two requests.
    assert raw(server, both + chunks, until=b"never").count(b"HTTP/1.1 ") == 1
    huge = head(
        server.keys["acme"], "POST", "/v1/completions", lines[0], "Content-Length: 99999999"
    )
    assert raw(server, huge, until=b"\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_sockets_are_refused(server: Server) -> None:
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    sent = head(
        server.keys["acme"],
        "GET",
        "/v1/realtime",
        *lines,
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    heard = raw(server, sent, until=b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 40[34]", heard), heard[:100]


def test_nothing_private_was_logged(server: Server) -> None:
    said = server.said()
    assert "skvc1." not in said
    assert "4539" not in said
    assert not any(key in said for key in server.keys.values())


def test_a_signal_ends_all_processes_with_status_0(server: Server) -> None:
    """The last test of this file: it stops the server."""
    children = descendants(server.process.pid)
    assert len(children) >= 3
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(300) == 0
    deadline_s = time.monotonic() + 60
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.2)


def descendants(pid: int) -> list[int]:
    found, left = [], [pid]
    while left:
        at = left.pop()
        try:
            text = Path(f"/proc/{at}/task/{at}/children").read_text()
        except OSError:
            continue
        left += map(int, text.split())
        found += map(int, text.split())
    return found
