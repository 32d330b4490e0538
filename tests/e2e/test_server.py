"""The whole server over HTTP, with a tiny real model: what clients and operators rely on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from safekv.gateway.declarations import DeclarationStore
from support.servers import RunningServer, command, refused, serving

SENTENCE = "A small red boat lay on the beach, and nobody knew to whom it belonged. "


@pytest.fixture(scope="module")
def server(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tiny_dir, tmp_path_factory.mktemp("server"), "--epoch", "0.1") as running:
        yield running


def openai_client(server: RunningServer, tenant: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.keys[tenant], max_retries=0)


def eventually(condition: Callable[[], bool]) -> None:
    """Poll another process until `condition` holds; fails after twenty seconds."""
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, "did not come true in time"
        time.sleep(0.05)


def test_openai_client_plain_and_streamed(server: RunningServer) -> None:
    client = openai_client(server, "acme")
    messages = [{"role": "user", "content": "Name a colour."}]
    plain = client.chat.completions.create(
        model=server.model, messages=messages, max_tokens=8, temperature=0
    )
    stream = client.chat.completions.create(
        model=server.model,
        messages=messages,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens
    completion = client.completions.create(model=server.model, prompt=SENTENCE, max_tokens=4)
    assert completion.usage.completion_tokens <= 4
    assert [m.id for m in client.models.list()] == [server.model]


@pytest.mark.parametrize("mode", ["isolated", "selective", "unsafe-global"])
def test_identical_prompts_of_two_tenants_get_identical_bytes(
    tiny_dir: Path, tmp_path: Path, mode: str
) -> None:
    with serving(tiny_dir, tmp_path, "--mode", mode, "--epoch", "0.1") as server:
        body = {"model": server.model, "prompt": SENTENCE * 12, "max_tokens": 12, "temperature": 0}
        answers = []
        for tenant in ("acme", "acme", "beta", "beta"):
            with server.client(tenant) as client:
                answers.append(client.post("/v1/completions", json=body).raise_for_status().json())
            if mode == "selective":
                eventually(lambda: server.metric("safekv_promoted_blocks_total") > 0)
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1
        cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers]
        assert cached[0] == 0
        # Nobody is told of what others sent, except where all tenants use one cache.
        assert cached[2] == (cached[1] if mode == "unsafe-global" else 0)
        assert cached[1] == cached[3] > 0
        others = server.metric("safekv_hit_tokens_total") - server.metric(
            "safekv_own_hit_tokens_total"
        )
        assert (others > 0) == (mode == "selective")
        assert any("unsafe-global" in line for line in server.lines) == (mode == "unsafe-global")
        warnings = httpx.get(f"{server.url}/health").json()["warnings"]
        assert bool(warnings) == (mode == "unsafe-global")


def test_fields_of_the_client_never_choose_the_tenant(server: RunningServer) -> None:
    """Mallory names acme in every field and header, and still finds nothing of acme's."""
    secret = "My badge number is SSN 536-22-8921, please remember it for later. " * 6
    body = {"model": server.model, "prompt": secret, "max_tokens": 1, "temperature": 0}
    with server.client("acme") as acme:
        acme.post("/v1/completions", json=body).raise_for_status()
    before = server.metric("safekv_hit_tokens_total")
    claims = {"user": "acme", "cache_salt": "acme", "metadata": {"tenant": "acme"}}
    headers = {"X-Tenant": "acme", "X-Tenant-Id": "acme", "OpenAI-Organization": "acme"}
    with server.client("mallory") as mallory:
        answer = mallory.post("/v1/completions", json={**body, **claims}, headers=headers)
    assert answer.raise_for_status().json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert server.metric("safekv_hit_tokens_total") == before


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "json"),
        (b'{"model": "\xff"}', 400, "utf-8"),
        ({"prompt": ""}, 400, "empty"),
        ({"prompt": "hi", "max_tokens": 0}, 400, "max_tokens"),
        ({"prompt": "hi", "max_tokens": -3}, 400, "max_tokens"),
        ({"prompt": "hi", "max_tokens": 5000}, 400, "2048"),
        ({"prompt": "hi", "model": "gpt-0"}, 404, "gpt-0"),
        ({"prompt": "many words " * 3000}, 400, "2048"),
        ({"prompt": "x" * 1_100_000}, 413, "1048576"),
    ],
)
def test_bad_requests_get_a_clear_answer(
    server: RunningServer, body: bytes | dict[str, object], status: int, says: str
) -> None:
    with server.client("acme") as client:
        if isinstance(body, bytes):
            answer = client.post("/v1/completions", content=body)
        else:
            answer = client.post("/v1/completions", json={"model": server.model, **body})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"].lower()


def test_too_long_a_prompt_is_told_both_lengths(server: RunningServer) -> None:
    with server.client("acme") as client:
        body = {"model": server.model, "prompt": "many words " * 3000}
        message = client.post("/v1/completions", json=body).json()["error"]["message"]
    numbers = [int(word.strip(",")) for word in message.split() if word.strip(",").isdigit()]
    assert any(number > 2048 for number in numbers)
    assert 2048 in numbers


def test_without_a_known_key_everything_is_401(server: RunningServer) -> None:
    answers = [
        httpx.post(f"{server.url}/v1/completions", json={}, headers=headers)
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic YTpi"})
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    with server.client("acme") as tenant:
        assert tenant.get("/metrics").status_code == 403


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_blocks(server: RunningServer, stream: bool) -> None:
    body = {
        "model": server.model,
        "prompt": SENTENCE * 30,
        "max_tokens": 1500,
        "temperature": 0,
        "stream": stream,
    }
    cached = server.metric("safekv_cached_blocks")
    with server.client("beta") as client:
        if stream:
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body, timeout=httpx.Timeout(60, read=0.5))
    eventually(lambda: server.metric("safekv_running_leases") == 0)
    assert server.metric("safekv_cached_blocks") < cached + 70, "the answer did not run to its end"


def test_too_many_waiting_requests_get_429(tiny_dir: Path, tmp_path: Path) -> None:
    limit = {"SAFEKV_SERVER__MAX_WAITING_PER_TENANT": "1"}
    with serving(tiny_dir, tmp_path, env=limit) as server, server.client("acme") as client:
        body = {"model": server.model, "prompt": SENTENCE * 90, "max_tokens": 1}

        def post(n: int) -> httpx.Response:
            return client.post("/v1/completions", json={**body, "prompt": f"{n} {body['prompt']}"})

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(post, range(12)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    refused_answers = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused_answers)


def test_sigterm_lets_an_answer_finish(tiny_dir: Path, tmp_path: Path) -> None:
    with serving(tiny_dir, tmp_path) as server, server.client("acme") as client:
        body = {"model": server.model, "prompt": "Once", "max_tokens": 60, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(timeout=60) == 0


def test_sigterm_cancels_what_takes_too_long(tiny_dir: Path, tmp_path: Path) -> None:
    drain = {"SAFEKV_SERVER__DRAIN_S": "0"}
    with serving(tiny_dir, tmp_path, env=drain) as server:
        started, over = threading.Event(), threading.Event()

        def read() -> None:
            body = {"model": server.model, "prompt": "Once", "max_tokens": 1900, "stream": True}
            with (
                server.client("acme") as client,
                client.stream("POST", "/v1/completions", json=body) as answer,
            ):
                try:
                    for _ in answer.iter_lines():
                        started.set()
                except httpx.HTTPError:
                    pass
            over.set()

        threading.Thread(target=read, daemon=True).start()
        assert started.wait(60)
        assert server.stop() == 0
        assert over.wait(60)


def test_a_server_that_cannot_start_says_why(tiny_dir: Path, tmp_path: Path) -> None:
    keys = tmp_path / "tenants.json"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = refused([*command(tiny_dir, keys), "--port", str(port)])
    assert (status, f"127.0.0.1:{port} is in use" in said) == (2, True)

    keys.write_text("{}")
    keys.chmod(0o644)
    status, said = refused(command(tiny_dir, keys))
    assert (status, "chmod 600" in said) == (2, True)
    keys.unlink()

    status, said = refused(command(tmp_path / "nowhere" / "model", keys))
    assert (status, "does not exist" in said) == (2, True)


@pytest.mark.parametrize("cause", ["no master key", "declarations of somebody else"])
def test_keys_are_refused_before_a_model_is_looked_at(
    cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is not there, and that is not what is said: no time is spent on it."""
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SAFEKV_VAULT_MASTER_KEY", raising=False)
    if cause == "no master key":
        monkeypatch.setenv("SAFEKV_TIERS__HOST_BLOCKS", "64")
        monkeypatch.setenv("SAFEKV_TIERS__DISK_BLOCKS", "64")
        monkeypatch.setenv("SAFEKV_TIERS__DISK_PATH", str(tmp_path / "blocks"))
    else:
        store = DeclarationStore.default(os.environ)
        store.add("one")
        store.key_path.write_text("0" * 64 + "\n")
    status, said = refused(command(tmp_path / "no-model", tmp_path / "keys.json"))
    assert (status, "does not exist" in said) == (2, False)
    assert ("master key" if cause == "no master key" else "declared.json") in said
    assert "Traceback" not in said


def test_a_damaged_model_is_refused_and_left_alone(tiny_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_dir.iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.suffix == ".safetensors" else len(content)
        (model / file.name).write_bytes(content[:cut])
    before = sorted((f.name, f.stat().st_size) for f in model.iterdir())
    status, said = refused(command(model, tmp_path / "keys.json"))
    assert status == 2
    assert "model.safetensors" in said
    assert "Traceback" not in said
    assert sorted((f.name, f.stat().st_size) for f in model.iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
