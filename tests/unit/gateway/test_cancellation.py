"""What happens to a request whose client goes away, and to those that wait for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from echo_engine import MODEL
from gateway_double import Gateway

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


class Caller:
    """One client at the ASGI boundary, which goes away when told to."""

    def __init__(self, gateway: Gateway, key: str, **fields: object) -> None:
        self._app: Any = gateway.app
        body = {"model": MODEL, "prompt": "hi", **fields}
        self._inbox = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._headers = [(b"authorization", f"Bearer {key}".encode())]
        self._gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def call(self) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/completions", "raw_path": b"/v1/completions",
            "query_string": b"", "headers": self._headers, "server": ("gateway", 80),
        }  # fmt: skip
        await self._app(scope, self._receive, self._send)

    def go(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._inbox:
            return self._inbox.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hold_before", [0, 1])
async def test_the_engine_hears_that_the_client_went(
    gateway: Gateway, stream: bool, hold_before: int
) -> None:
    engine = gateway.engine
    engine.hold, engine.hold_before = asyncio.Event(), hold_before
    caller = Caller(gateway, gateway.alice, stream=stream)
    task = asyncio.create_task(caller.call())
    await engine.reached_hold.wait()
    caller.go()
    await task
    assert engine.closed.is_set()
    assert (engine.completed, engine.cancelled) == (0, 1)
    starts = [one for one in caller.sent if one["type"] == "http.response.start"]
    assert len(starts) == (1 if stream and hold_before else 0)
    engine.hold = None
    assert (await gateway.complete()).status_code == 200


async def test_a_client_that_goes_while_it_sends_reaches_no_engine(gateway: Gateway) -> None:
    caller = Caller(gateway, gateway.alice)
    caller._inbox[0]["more_body"] = True
    caller.go()
    await caller.call()
    assert caller.sent == []
    assert gateway.engine.requests == []


async def test_a_cancelled_server_task_ends_the_request(gateway: Gateway) -> None:
    gateway.engine.hold = asyncio.Event()
    task = asyncio.create_task(Caller(gateway, gateway.alice, stream=True).call())
    await gateway.engine.reached_hold.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gateway.engine.cancelled == 1


async def test_too_many_waiting_requests(gateway: Gateway, error_of: ErrorOf) -> None:
    engine = gateway.engine
    engine.hold, engine.hold_before = asyncio.Event(), 0
    callers = [Caller(gateway, gateway.alice), Caller(gateway, gateway.alice)]
    tasks = [asyncio.create_task(caller.call()) for caller in callers]
    await engine.arrivals.get()
    await engine.arrivals.get()
    own = await gateway.complete()
    assert own.status_code == 429
    assert own.headers["retry-after"] == "1"
    assert error_of(own)["code"] == "rate_limit_exceeded"
    third = asyncio.create_task(Caller(gateway, gateway.bob).call())
    await engine.arrivals.get()
    total = await gateway.complete(gateway.bob)
    assert (total.status_code, total.content) == (429, own.content)
    callers[0].go()
    await tasks[0]
    engine.hold.set()
    await asyncio.gather(third, *tasks)
    assert (await gateway.complete()).status_code == 200


async def test_a_request_with_a_first_token_no_longer_waits(gateway: Gateway) -> None:
    engine = gateway.engine
    engine.hold, engine.hold_before = asyncio.Event(), 1
    tasks = []
    for count in range(1, 5):
        engine.reached_hold.clear()
        tasks.append(asyncio.create_task(Caller(gateway, gateway.alice).call()))
        await engine.reached_hold.wait()
        assert len(engine.requests) == count
    engine.hold.set()
    await asyncio.gather(*tasks)
