"""An OpenAI-compatible endpoint as seen from outside: one key, and a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safekv.clock import Clock, SystemClock
from safekv.errors import ConfigError, SafeKVError

if TYPE_CHECKING:
    import openai

Message = dict[str, str]


class TargetError(SafeKVError):
    """An endpoint did not answer a probe as an OpenAI-compatible one would."""

    exit_code = 3
    http_status = 502


@dataclass(frozen=True, slots=True)
class Probe:
    """One timed answer. `cached_tokens` is what the endpoint itself says, `None` if nothing."""

    ttft_s: float
    total_s: float
    text: str = field(repr=False)
    cached_tokens: int | None


class Target:
    """One tenant's view of an endpoint.

    Uses the `openai` client, without retries (a retry would be timed as one slow answer) and
    without proxies from the environment. That client closes the connection after a stream, so
    every time includes setting up a new one: some 0.2 ms on one machine, a round trip further
    away. Raises `ConfigError` when `openai` is missing.
    Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        timeout_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self._model = model
        self._clock = clock or SystemClock()
        self._client = _client(base_url, api_key, timeout_s)

    def ttft(self, prompt: str | Sequence[Message], *, max_tokens: int = 1) -> Probe:
        """Send `prompt` (text, or chat messages), decode greedily, and time the first token.

        The clock starts just before the request is sent and stops at the first streamed event
        that carries text, or at the last one when the answer is empty. Raises `TargetError`
        when the endpoint refuses, times out or breaks off.
        """
        import openai

        start_s = self._clock.now_s()
        try:
            return timed(self._stream(prompt, max_tokens), self._clock, start_s)
        except openai.APIError as error:
            what = getattr(error, "status_code", None) or type(error).__name__
            raise TargetError(
                f"the endpoint refused a probe or broke off: {what}",
                "look into the server's log",
            ) from None

    def _stream(self, prompt: str | Sequence[Message], max_tokens: int) -> Iterator[Any]:
        # The client's overloads need literal arguments; what it yields is read by attribute.
        client: Any = self._client
        options: dict[str, Any] = {
            "model": self._model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if isinstance(prompt, str):
            answer = client.completions.create(prompt=prompt, **options)
        else:
            answer = client.chat.completions.create(messages=list(prompt), **options)
        return iter(answer)

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._client.close()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _client(base_url: str, api_key: str, timeout_s: float) -> openai.OpenAI:
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "the python package 'openai' is not installed", "pip install 'safekv[bench]'"
        ) from None
    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(timeout=timeout_s, trust_env=False),
    )


def timed(events: Iterable[Any], clock: Clock, start_s: float) -> Probe:
    """Read a stream of completion events to its end; the first one with text stops the clock."""
    first: float | None = None
    parts: list[str] = []
    cached: int | None = None
    for event in events:
        piece = "".join(_text(choice) for choice in event.choices)
        if piece and first is None:
            first = clock.now_s()
        parts.append(piece)
        cached = _cached_tokens(event, cached)
    end = clock.now_s()
    return Probe((end if first is None else first) - start_s, end - start_s, "".join(parts), cached)


def _text(choice: Any) -> str:
    delta = getattr(choice, "delta", None)
    text = choice.text if delta is None else delta.content
    return text or ""


def _cached_tokens(event: Any, before: int | None) -> int | None:
    details = getattr(getattr(event, "usage", None), "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None)
    return before if cached is None else int(cached)
