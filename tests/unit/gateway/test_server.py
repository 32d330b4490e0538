"""The gateway on a real socket, spoken to by real clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
from echo_engine import MODEL
from gateway_double import Gateway

from safekv.errors import ConfigError
from safekv.gateway.server import Server, reserve_socket, url_of

HERE = Path(__file__).parent


@asynccontextmanager
async def served(gateway: Gateway, drain_s: float = 5.0) -> AsyncIterator[tuple[str, Server]]:
    ready: asyncio.Queue[str] = asyncio.Queue()
    sock = reserve_socket("127.0.0.1", 0)
    server = Server(gateway.app, gateway.engine, sock, drain_s=drain_s, on_ready=ready.put_nowait)
    task = asyncio.create_task(server.run())
    try:
        yield await ready.get(), server
    finally:
        server.leave()
        await task


def client_of(gateway: Gateway, url: str, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key or gateway.alice, max_retries=0)


async def test_the_openai_client_works(gateway: Gateway) -> None:
    async with served(gateway) as (url, _), client_of(gateway, url) as client:
        chat = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], temperature=0
        )
        assert chat.choices[0].message.content == "Hello!"
        assert chat.usage is not None
        assert chat.usage.prompt_tokens_details is not None
        assert chat.usage.prompt_tokens_details.cached_tokens == 3
        text = await client.completions.create(model=MODEL, prompt="hi", stop=["o"])
        assert (text.choices[0].text, text.choices[0].finish_reason) == ("Hell", "stop")
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "safekv"
    assert gateway.engine.lifecycle == ["start", "stop"]


async def test_the_openai_client_streams(gateway: Gateway) -> None:
    async with served(gateway) as (url, _), client_of(gateway, url) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == "Hello!"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens > 0
        pieces = await client.completions.create(model=MODEL, prompt="hi", stream=True)
        assert "".join([piece.choices[0].text async for piece in pieces]) == "Hello!"


async def test_the_openai_client_understands_our_errors(gateway: Gateway) -> None:
    async with served(gateway) as (url, _):
        async with client_of(gateway, url, "skv_x") as stranger:
            with pytest.raises(openai.AuthenticationError) as refused:
                await stranger.models.list()
            assert refused.value.code == "invalid_api_key"
        async with client_of(gateway, url) as client:
            with pytest.raises(openai.BadRequestError) as wrong:
                await client.completions.create(model=MODEL, prompt="hi", n=2)
            assert wrong.value.param == "n"
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(model="other", prompt="hi")
            gateway.engine.fail_before = 1
            stream = await client.completions.create(model=MODEL, prompt="hi", stream=True)
            with pytest.raises(openai.APIError):
                [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_noticed(gateway: Gateway, stream: bool) -> None:
    engine = gateway.engine
    engine.hold = asyncio.Event()
    async with served(gateway) as (url, _), httpx.AsyncClient(base_url=url) as client:
        body = {"model": MODEL, "prompt": "hi", "stream": stream}
        call = asyncio.create_task(
            client.post("/v1/completions", json=body, headers=gateway.headers())
        )
        await engine.reached_hold.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(engine.closed.wait(), 10)
        assert engine.cancelled == 1


async def test_a_chunked_body_over_the_limit(gateway: Gateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    async with served(gateway) as (url, _), httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/v1/completions", content=chunks(), headers=gateway.headers())
        assert response.status_code == 413
        stranger = await client.post("/v1/completions", content=chunks())
        assert stranger.status_code == 401
        assert (await client.get("/health")).status_code == 200


async def test_leaving_lets_work_in_flight_finish(gateway: Gateway) -> None:
    engine = gateway.engine
    engine.hold = asyncio.Event()
    async with served(gateway) as (url, server), httpx.AsyncClient(base_url=url) as client:
        body = {"model": MODEL, "prompt": "hi"}
        call = asyncio.create_task(
            client.post("/v1/completions", json=body, headers=gateway.headers())
        )
        await engine.reached_hold.wait()
        server.leave()
        asyncio.get_running_loop().call_later(0.3, engine.hold.set)
        assert (await call).json()["choices"][0]["text"] == "Hello!"
    assert engine.completed == 1


async def test_leaving_cancels_what_does_not_finish(gateway: Gateway) -> None:
    engine = gateway.engine
    engine.hold = asyncio.Event()
    async with served(gateway, drain_s=0) as (url, server), httpx.AsyncClient() as client:
        body = {"model": MODEL, "prompt": "hi"}
        call = asyncio.create_task(
            client.post(f"{url}/v1/completions", json=body, headers=gateway.headers())
        )
        await engine.reached_hold.wait()
        server.leave()
        await asyncio.gather(call, return_exceptions=True)
    assert (engine.completed, engine.cancelled) == (0, 1)
    assert engine.lifecycle == ["start", "stop"]


def test_a_port_in_use_is_named_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} is in use") as caught:
            reserve_socket("127.0.0.1", port)
    assert caught.value.exit_code == 2


def test_an_unknown_host_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on nowhere\.invalid:80"):
        reserve_socket("nowhere.invalid", 80)


async def test_an_address_taken_meanwhile_is_a_config_error(gateway: Gateway) -> None:
    first = reserve_socket("127.0.0.1", 0)
    second = reserve_socket("127.0.0.1", first.getsockname()[1])
    second.listen()
    server = Server(gateway.app, gateway.engine, first, drain_s=0, on_ready=print)
    with second, pytest.raises(ConfigError, match="is in use"):
        await server.run()
    assert gateway.engine.lifecycle == ["start", "stop"]


async def test_tokens_are_sent_without_delay() -> None:
    nodelay: asyncio.Queue[int] = asyncio.Queue()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        nodelay.put_nowait(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    sock = reserve_socket("127.0.0.1", 0)
    async with await asyncio.start_server(accept, sock=sock):
        _, writer = await asyncio.open_connection(*sock.getsockname())
        assert await nodelay.get() != 0
        writer.close()


async def test_leaving_while_the_engine_starts_serves_nobody(gateway: Gateway) -> None:
    sock = reserve_socket("127.0.0.1", 0)
    server = Server(gateway.app, gateway.engine, sock, drain_s=0, on_ready=pytest.fail)
    server.leave()
    await server.run()
    assert gateway.engine.lifecycle == ["start", "stop"]
    assert sock.fileno() == -1


def test_urls() -> None:
    with reserve_socket("127.0.0.1", 0) as sock:
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


SCRIPT = """
import sys
from pathlib import Path
from echo_engine import EchoEngine
from safekv.gateway.app import create_app
from safekv.gateway.config import GatewayConfig
from safekv.gateway.server import reserve_socket, serve
from safekv.gateway.tenants import TenantStore
engine = EchoEngine()
app = create_app(engine, TenantStore(Path(sys.argv[1])), GatewayConfig(), metrics=bytes)
ready = lambda url: print(url, flush=True)
serve(app, engine, reserve_socket("127.0.0.1", 0), drain_s=5, on_ready=ready)
print(engine.lifecycle, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_exit_status_0(tmp_path: Path, number: signal.Signals) -> None:
    path = os.pathsep.join([str(HERE), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "keys.json")],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/health").status_code == 200
        process.send_signal(number)
        assert process.stdout.read() == "['start', 'stop']\n"
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
