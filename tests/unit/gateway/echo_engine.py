"""A deterministic engine double for tests of HTTP shapes: it says what it was told to say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from safekv.engines.base import Chunk, GenerationRequest
from safekv.errors import EngineError
from safekv.types import TenantId

MODEL = "echo/one"


class EchoEngine:
    """One token per byte of the prompt; answers with `script`, one piece per token.

    With `hold` set, an answer waits before piece `hold_before` until the event is set.
    `fail_before` raises before that piece. Everything that happened is recorded.
    """

    def __init__(
        self, script: Sequence[str] = ("Hel", "lo", "!"), context_tokens: int = 64
    ) -> None:
        self.script = list(script)
        self.context_tokens = context_tokens
        self.limits: dict[TenantId, int] = {}
        self.model_id = MODEL
        self.requests: list[GenerationRequest] = []
        self.chats: list[list[dict[str, str]]] = []
        self.arrivals: asyncio.Queue[GenerationRequest] = asyncio.Queue()
        self.encoding_threads: set[int] = set()
        self.closed = asyncio.Event()
        self.reached_hold = asyncio.Event()
        self.completed = 0
        self.cancelled = 0
        self.hold: asyncio.Event | None = None
        self.hold_before = 1
        self.fail_before: int | None = None
        self.failure: Exception = EngineError("block pool of 17 blocks lost")
        self.runs = True
        self.lifecycle: list[str] = []

    def limit_tokens(self, tenant: TenantId) -> int:
        return self.limits.get(tenant, self.context_tokens)

    def open(self, tenants: Iterable[TenantId]) -> None:
        self.lifecycle += [f"open {tenant}" for tenant in tenants]

    def encode(self, text: str) -> list[int]:
        self.encoding_threads.add(threading.get_ident())
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        self.chats.append([dict(message) for message in messages])
        return self.encode("".join(f"{one['role']}:{one['content']}" for one in messages))

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        self.arrivals.put_nowait(request)
        whole = False
        try:
            for index, text in enumerate(self.script[: request.max_tokens]):
                await self._wait_or_fail(index)
                last = index + 1 == min(len(self.script), request.max_tokens)
                reason = "stop" if index + 1 == len(self.script) else "length"
                whole = last
                yield Chunk(text, index + 1, 3, reason if last else None)
        finally:
            self.completed += whole
            self.cancelled += not whole
            self.closed.set()

    async def _wait_or_fail(self, index: int) -> None:
        if index == self.fail_before:
            raise self.failure
        if self.hold is not None and index == self.hold_before:
            self.reached_hold.set()
            await self.hold.wait()

    def healthy(self) -> bool:
        return self.runs

    def health(self) -> Mapping[str, object]:
        return {"mode": "isolated", "engine": "double", "status": "overwritten"}

    async def start(self) -> None:
        self.lifecycle.append("start")

    async def stop(self, drain_s: float) -> None:
        self.lifecycle.append("stop")
