"""Requests to, and answers of, an OpenAI-compatible endpoint, as bytes say them."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Final

DONE: Final = "[DONE]"
DIGEST_KEY: Final = os.urandom(32)
"""Answers are compared, never kept: a digest says nothing outside this process."""


class Api(Enum):
    """Which route generates."""

    CHAT = "chat"
    COMPLETIONS = "completions"

    @property
    def path(self) -> str:
        return "/chat/completions" if self is Api.CHAT else "/completions"


@dataclass(frozen=True, slots=True)
class Form:
    """How a request is written: what the endpoint understands of it was found out before."""

    api: Api
    stream: bool = True
    usage_in_stream: bool = True

    def body(self, model: str, text: str, max_tokens: int) -> dict[str, Any]:
        """The JSON body of a greedy request for `text`."""
        if self.api is Api.CHAT:
            prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        else:
            prompt = {"prompt": text}
        body = {"model": model, **prompt, "max_tokens": max_tokens, "temperature": 0}
        if self.stream:
            body["stream"] = True
            if self.usage_in_stream:
                body["stream_options"] = {"include_usage": True}
        return body


class NotAnAnswer(Exception):  # noqa: N818 - what the endpoint said, not a fault of ours
    """What came back is no OpenAI-compatible answer. The message names what is wrong with it."""


@dataclass(slots=True)
class Answer:
    """The parts of an answer an audit looks at, filled while it arrives.

    `text_at_s` are the moments at which pieces of text came, by the clock of whoever fills it.
    The text itself goes into a keyed hash, and nowhere else.
    """

    usage: dict[str, float] = field(default_factory=dict)
    text_at_s: list[float] = field(default_factory=list)
    end_s: float | None = None
    _hash: hashlib.blake2b = field(
        default_factory=lambda: hashlib.blake2b(key=DIGEST_KEY, digest_size=16), repr=False
    )

    @property
    def digest(self) -> bytes:
        """A keyed hash of all text so far, 16 bytes."""
        return self._hash.digest()

    @property
    def first_s(self) -> float | None:
        """When the first text came; when the answer ended, if it had none."""
        return self.text_at_s[0] if self.text_at_s else self.end_s

    @property
    def pace_s(self) -> float | None:
        """The median time between pieces of text; `None` for fewer than three."""
        gaps = [b - a for a, b in pairwise(self.text_at_s)]
        return statistics.median(gaps) if len(gaps) > 1 else None

    def take_event(self, data: str, at_s: float) -> None:
        """Take in one event of a stream. Raises `NotAnAnswer`."""
        event = _object(data)
        _require_no_error(event)
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise NotAnAnswer("an event without 'choices'")
        self.usage |= dict(numbers(event.get("usage")))
        for choice in choices:
            if piece := _piece(choice):
                self.text_at_s.append(at_s)
                self._hash.update(piece.encode("utf-8", "replace"))
            if isinstance(choice, Mapping) and choice.get("finish_reason"):
                self.end_s = at_s

    def take_whole(self, data: str, at_s: float) -> None:
        """Take in an answer that came at once. Raises `NotAnAnswer`."""
        answer = _object(data)
        _require_no_error(answer)
        if not isinstance(answer.get("choices"), list) or not answer["choices"]:
            raise NotAnAnswer("an answer without 'choices'")
        self.usage |= dict(numbers(answer.get("usage")))
        for choice in answer["choices"]:
            self._hash.update(_whole(choice).encode("utf-8", "replace"))
        self.end_s = at_s


def events(lines: Iterable[str]) -> Iterator[str]:
    """The data of server-sent events, up to the last one."""
    for line in lines:
        if line.startswith("data:"):
            data = line[5:].strip()
            if data == DONE:
                return
            yield data


def numbers(usage: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a usage object by its path, such as `prompt_tokens_details.cached_tokens`."""
    if not isinstance(usage, Mapping):
        return
    for name, value in usage.items():
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield inner, float(value)
        else:
            yield from numbers(value, inner)


def _object(data: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise NotAnAnswer("text that is not JSON") from None
    if not isinstance(found, Mapping):
        raise NotAnAnswer("JSON that is no object")
    return found


def _require_no_error(answer: Mapping[str, Any]) -> None:
    if answer.get("error"):
        raise NotAnAnswer("an error inside the answer")


def _piece(choice: object) -> str:
    """The text that a choice of a stream's event carries, thoughts included."""
    if not isinstance(choice, Mapping):
        raise NotAnAnswer("a choice that is no object")
    delta = choice.get("delta")
    return _said(delta) if isinstance(delta, Mapping) else str(choice.get("text") or "")


def _whole(choice: object) -> str:
    """The text of a choice of an answer that came at once; of anything else, nothing."""
    if not isinstance(choice, Mapping):
        return ""
    message = choice.get("message")
    return _said(message) if isinstance(message, Mapping) else str(choice.get("text") or "")


def _said(message: Mapping[str, Any]) -> str:
    names = ("content", "reasoning_content", "reasoning")
    return next((str(message[name]) for name in names if message.get(name)), "")
