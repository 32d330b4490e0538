"""The response of a generating route: it runs the request, and ends it when the client goes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from safekv.engines.base import Engine
from safekv.gateway.answers import Json, Shape, Usage
from safekv.gateway.bodies import GenerationBody
from safekv.gateway.errors import describe
from safekv.gateway.generation import Piece, Pieces, plan, running
from safekv.gateway.limits import WaitingRoom
from safekv.telemetry.log import where
from safekv.types import TenantId

logger = logging.getLogger(__name__)

SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Reverse proxies otherwise gather a stream before they pass it on.
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Service:
    """What generating routes share. A request leaves `waiting` with its first token."""

    engine: Engine
    waiting: WaitingRoom
    running: WaitingRoom
    encoders: anyio.CapacityLimiter


class GenerationResponse(Response):
    """Runs one request while it is sent, so that one block owns the engine's iterator.

    Nothing is sent before the first piece: an error until then gets its true status. After
    that an error is an event in the stream. When the client goes, the work is cancelled at
    its next `await`, plain or streamed.
    """

    def __init__(
        self, service: Service, tenant: TenantId, body: GenerationBody, shape: Shape
    ) -> None:
        super().__init__()
        self._service = service
        self._tenant = tenant
        self._asked = body
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with (
            _cancelled_when_gone(receive),
            self._service.running.enter(self._tenant),
            self._service.waiting.enter(self._tenant) as ticket,
        ):
            request = await plan(
                self._service.engine, self._tenant, self._asked, self._service.encoders
            )
            usage = Usage(prompt_tokens=len(request.token_ids))
            async with running(self._service.engine, request) as chunks:
                pieces = Pieces(chunks, self._asked.stop, usage, on_first=ticket.leave)
                if self._asked.stream:
                    await self._stream(pieces, usage, send)
                else:
                    answer = await self._gather(pieces, usage)
                    await JSONResponse(answer)(scope, receive, send)

    async def _gather(self, pieces: AsyncIterator[Piece], usage: Usage) -> Json:
        texts, reason = [], None
        async for piece in pieces:
            texts.append(piece.text)
            reason = piece.finish_reason
        assert reason is not None, "the last piece has a finish_reason"
        return self._shape.whole("".join(texts), reason, usage)

    async def _stream(self, pieces: AsyncIterator[Piece], usage: Usage, send: Send) -> None:
        events = _Events(send)
        try:
            async for piece in pieces:
                for choice in self._choices(piece, first=not events.started):
                    await events.send(self._chunk([choice]))
            if self._asked.include_usage:
                await events.send({**self._shape.chunk([]), "usage": usage.wire()})
            await events.end(b"data: [DONE]\n\n")
        except Exception as error:
            if not events.started:
                raise
            logger.warning("stream failed: %s", where(error))
            await events.send(describe(error))
            await events.end(b"")

    def _choices(self, piece: Piece, *, first: bool) -> Iterator[Json]:
        if first:
            yield from self._shape.opening()
        if piece.text:
            yield self._shape.delta(piece.text)
        if piece.finish_reason is not None:
            yield self._shape.closing(piece.finish_reason)

    def _chunk(self, choices: list[Json]) -> Json:
        chunk = self._shape.chunk(choices)
        return {**chunk, "usage": None} if self._asked.include_usage else chunk


class _Events:
    """Server-sent events. The response starts with the first one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def send(self, payload: Json) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        data = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        await self._send(_body(b"data: " + data.encode() + b"\n\n", more=True))

    async def end(self, last: bytes) -> None:
        await self._send(_body(last, more=False))


def _body(data: bytes, *, more: bool) -> Json:
    return {"type": "http.response.body", "body": data, "more_body": more}


@contextmanager
def _cancelled_when_gone(receive: Receive) -> Iterator[None]:
    """Cancel the block when the client disconnects, and swallow that cancellation.

    The body must have been read: whatever arrives here but a disconnect is dropped.
    """
    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(_wait_for_disconnect(receive, scope))
        try:
            yield
        finally:
            watcher.cancel()


async def _wait_for_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
