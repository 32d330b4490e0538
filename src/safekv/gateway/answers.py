"""Answers in OpenAI's wire format, whole and in chunks. No field of it names a tenant."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Usage:
    """What one request has cost so far. `cached_tokens` counts only the tenant's own cache."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0

    def wire(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Shape(Protocol):
    """How one route writes an answer. `chunk` with no choices carries the usage."""

    def whole(self, text: str, finish_reason: str, usage: Usage) -> Json: ...

    def opening(self) -> list[Json]:
        """The choices of the chunks that come before the first text."""
        ...

    def delta(self, text: str) -> Json:
        """The choice that adds `text`."""
        ...

    def closing(self, finish_reason: str) -> Json:
        """The choice that ends the answer."""
        ...

    def chunk(self, choices: list[Json]) -> Json: ...


class CompletionShape:
    """`/v1/completions`."""

    def __init__(self, model: str) -> None:
        self._envelope = _envelope("cmpl", "text_completion", model)

    def whole(self, text: str, finish_reason: str, usage: Usage) -> Json:
        choice = self._choice(text, finish_reason)
        return {**self._envelope, "choices": [choice], "usage": usage.wire()}

    def opening(self) -> list[Json]:
        return []

    def delta(self, text: str) -> Json:
        return self._choice(text, None)

    def closing(self, finish_reason: str) -> Json:
        return self._choice("", finish_reason)

    def chunk(self, choices: list[Json]) -> Json:
        return {**self._envelope, "choices": choices}

    def _choice(self, text: str, finish_reason: str | None) -> Json:
        return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}


class ChatShape:
    """`/v1/chat/completions`."""

    def __init__(self, model: str) -> None:
        self._envelope = _envelope("chatcmpl", "chat.completion", model)

    def whole(self, text: str, finish_reason: str, usage: Usage) -> Json:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return {**self._envelope, "choices": [choice], "usage": usage.wire()}

    def opening(self) -> list[Json]:
        return [self._choice({"role": "assistant", "content": ""}, None)]

    def delta(self, text: str) -> Json:
        return self._choice({"content": text}, None)

    def closing(self, finish_reason: str) -> Json:
        return self._choice({}, finish_reason)

    def chunk(self, choices: list[Json]) -> Json:
        return {**self._envelope, "object": "chat.completion.chunk", "choices": choices}

    def _choice(self, delta: Json, finish_reason: str | None) -> Json:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _envelope(prefix: str, kind: str, model: str) -> Json:
    """The fields that all chunks of one answer share. The id is random and means nothing."""
    return {
        "id": f"{prefix}-{secrets.token_hex(16)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }
