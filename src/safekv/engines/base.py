"""What the gateway needs from an engine, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from safekv.types import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt of one tenant, already tokenised. `temperature` 0 means greedy."""

    tenant: TenantId
    token_ids: Sequence[int] = field(repr=False)
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class DeclaredText:
    """What an operator declared public: how prompts begin, or with `system` a system message."""

    text: str = field(repr=False)
    system: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one engine step added to an answer.

    `text` is complete UTF-8 (a character split over tokens arrives with its last one).
    `completion_tokens` counts the answer's tokens so far. `cached_tokens` counts prompt tokens
    found in the tenant's *own* cache, and nothing else. `finish_reason` is `"stop"` or
    `"length"` in the last chunk and `None` before.
    """

    text: str = field(repr=False)
    completion_tokens: int
    cached_tokens: int
    finish_reason: str | None = None


class Engine(Protocol):
    """A running model. Methods are called from one event loop.

    `generate` yields chunks until one has a `finish_reason`. Closing the iterator
    early (client gone) cancels the request and frees its blocks. It raises
    `EngineError` when the engine stops under it.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def context_tokens(self) -> int:
        """The most prompt and completion tokens the model takes together."""
        ...

    def limit_tokens(self, tenant: TenantId) -> int:
        """The most prompt and completion tokens one request of `tenant` may have together."""
        ...

    def open(self, tenants: Iterable[TenantId]) -> None:
        """Divide the cache between `tenants`; one that comes later makes the shares smaller.

        Raises `CacheError` when there are too many.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, special tokens in it recognised, none added."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of `messages` in the model's chat template, with the prompt for an answer.

        Raises `RequestError` (400) when the model has no template or the template refuses.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]: ...

    def healthy(self) -> bool:
        """Whether the generation loop runs."""
        ...

    def health(self) -> Mapping[str, object]:
        """Facts for `/health` that are the same for every tenant: no counters, no load."""
        ...

    async def start(self) -> None: ...

    async def stop(self, drain_s: float) -> None:
        """Finish what is in flight within `drain_s` seconds, cancel the rest, and stop."""
        ...
