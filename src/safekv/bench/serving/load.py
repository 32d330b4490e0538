"""An open-loop client: each request is sent at its time, whether or not earlier ones came back.

Latency counts from the *scheduled* time. A server that stalls therefore cannot hide it by
holding up the requests that would have shown it (coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safekv.bench.serving.workloads import Turn
from safekv.errors import ConfigError

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server: its URL with `/v1`, the model's name, and a key per tenant."""

    url: str
    model: str
    keys: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Answer:
    """What came back for one turn. Times in seconds from the start of the load.

    `failed` names what went wrong, the status or the kind of error; the times that were not
    reached stay `None`.
    """

    tenant: str
    first: bool
    at_s: float
    sent_s: float | None = None
    first_token_s: float | None = None
    end_s: float | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failed: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """From the scheduled time to the first token."""
        return None if self.first_token_s is None else self.first_token_s - self.at_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each token behind the first."""
        if self.first_token_s is None or self.end_s is None or self.answer_tokens < 2:
            return None
        return (self.end_s - self.first_token_s) / (self.answer_tokens - 1)


async def send(
    endpoint: Endpoint, turns: Sequence[Turn], at_s: Sequence[float], timeout_s: float
) -> list[Answer]:
    """Send `turns[i]` at `at_s[i]` and wait for all answers; a failure is an answer too.

    Raises `ConfigError` when httpx is missing.
    """
    async with _client(endpoint, timeout_s) as client:
        began = time.perf_counter()
        line = _Line(client, endpoint, began)
        return list(
            await asyncio.gather(
                *(line.send(turn, at) for turn, at in zip(turns, at_s, strict=True))
            )
        )


def _client(endpoint: Endpoint, timeout_s: float) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError:
        raise ConfigError(
            "the python package 'httpx' is not installed", "pip install 'safekv[bench]'"
        ) from None
    # No limit on connections: a pool that is full would hold requests back unseen.
    return httpx.AsyncClient(
        base_url=endpoint.url,
        timeout=timeout_s,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,
    )


class _Line:
    """One load's connection to the server, with its clock."""

    def __init__(self, client: httpx.AsyncClient, endpoint: Endpoint, began: float) -> None:
        self._client, self._endpoint, self._began = client, endpoint, began

    def _now_s(self) -> float:
        return time.perf_counter() - self._began

    async def send(self, turn: Turn, at_s: float) -> Answer:
        answer = Answer(turn.tenant, turn.first, at_s)
        await asyncio.sleep(max(0.0, at_s - self._now_s()))
        answer.sent_s = self._now_s()
        try:
            await self._exchange(turn, answer)
        except Exception as error:  # whatever goes wrong is counted, and the load goes on
            answer.failed = type(error).__name__
        if answer.failed is None and answer.first_token_s is None:
            answer.failed = "no token"
        return answer

    async def _exchange(self, turn: Turn, answer: Answer) -> None:
        body = {
            "model": self._endpoint.model,
            "messages": list(turn.messages),
            "max_tokens": turn.answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {self._endpoint.keys[turn.tenant]}"}
        request = self._client.stream("POST", "/chat/completions", json=body, headers=headers)
        async with request as response:
            if response.status_code != 200:
                answer.failed = str(response.status_code)
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self._hear(json.loads(line.removeprefix("data: ")), answer)

    def _hear(self, event: dict[str, Any], answer: Answer) -> None:
        if "error" in event:
            answer.failed = "error in the stream"
            return
        for choice in event["choices"]:
            over = choice.get("finish_reason") is not None
            if answer.first_token_s is None and (choice["delta"].get("content") or over):
                answer.first_token_s = self._now_s()
            if over:
                answer.end_s = self._now_s()
        if usage := event.get("usage"):
            answer.prompt_tokens = usage["prompt_tokens"]
            answer.answer_tokens = usage["completion_tokens"]
