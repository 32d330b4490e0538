"""Steps 2 to 5 of a request's life, as the gateway sees them: encode, bound, generate, cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self, cast

import anyio
import anyio.to_thread

from safekv.engines.base import Chunk, Engine, GenerationRequest
from safekv.errors import EngineError, RequestError
from safekv.gateway.answers import Usage
from safekv.gateway.bodies import GenerationBody
from safekv.gateway.stops import StopCutter
from safekv.types import TenantId


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that may be shown now. Only the last piece has a `finish_reason`."""

    text: str = field(repr=False)
    finish_reason: str | None = None


async def plan(
    engine: Engine, tenant: TenantId, body: GenerationBody, encoders: anyio.CapacityLimiter
) -> GenerationRequest:
    """The engine's request for `body`. Raises `RequestError` when it does not fit.

    Encodes in a thread, because a long prompt would stop the event loop for everyone;
    `encoders` bounds how many at once. A client that goes away is only heard when its thread
    has ended: otherwise disconnecting would be a way around the bound.
    """
    token_ids = await anyio.to_thread.run_sync(body.encode, engine, limiter=encoders)
    return GenerationRequest(
        tenant=tenant,
        token_ids=token_ids,
        max_tokens=answer_tokens(token_ids, body, engine.limit_tokens(tenant)),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
    )


def answer_tokens(token_ids: Sequence[int], body: GenerationBody, context_tokens: int) -> int:
    """The most tokens the answer may have.

    An answer that was asked for must fit as a whole; one whose length was left open gets the
    route's default or what is left of the context. Raises `RequestError` (400) with all lengths.
    """
    prompt_tokens = len(token_ids)
    if prompt_tokens == 0:
        raise RequestError("the prompt is empty", "send at least one token", code="empty_prompt")
    left = context_tokens - prompt_tokens
    if left < 1:
        raise RequestError(
            f"the prompt has {prompt_tokens} tokens, the context {context_tokens}, "
            "of which the answer needs at least 1",
            "send a shorter prompt",
            param="messages" if "messages" in type(body).model_fields else "prompt",
            code="context_length_exceeded",
        )
    param, asked, default = body.limit()
    if asked is None:
        return min(default, left)
    if asked > left:
        raise RequestError(
            f"the prompt has {prompt_tokens} tokens and {param} is {asked}, "
            f"together more than the context of {context_tokens}",
            f"use at most {left}",
            param=param,
            code="context_length_exceeded",
        )
    return asked


class Pieces:
    """An answer's pieces, cut at the first stop string, and its cost kept in `usage`.

    Calls `on_first` when the first token is there. Raises `EngineError` if the engine stops
    half-way. An iterator, not a generator: when the reader is cancelled nothing is left open.
    """

    def __init__(
        self,
        chunks: AsyncIterator[Chunk],
        stops: Sequence[str],
        usage: Usage,
        on_first: Callable[[], None],
    ) -> None:
        self._chunks = chunks
        self._cutter = StopCutter(stops)
        self._usage = usage
        self._on_first = on_first
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if self._over:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            raise EngineError("the engine ended an answer without a reason") from None
        self._on_first()
        self._usage.completion_tokens = chunk.completion_tokens
        self._usage.cached_tokens = chunk.cached_tokens
        piece = self._cut(chunk)
        self._over = piece.finish_reason is not None
        return piece

    def _cut(self, chunk: Chunk) -> Piece:
        text, stopped = self._cutter.feed(chunk.text)
        if stopped:
            return Piece(text, "stop")
        if chunk.finish_reason is not None:
            return Piece(text + self._cutter.flush(), chunk.finish_reason)
        return Piece(text)


@asynccontextmanager
async def running(
    engine: Engine, request: GenerationRequest
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Run `request` and give its chunks; leaving the block in any way ends it in the engine."""
    chunks = cast(AsyncGenerator[Chunk, None], engine.generate(request))
    try:
        yield chunks
    finally:
        # Shielded: a request whose client has gone must still give its blocks back.
        with anyio.CancelScope(shield=True):
            await chunks.aclose()
