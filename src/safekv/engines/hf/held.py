"""Answers on a schedule: a first token that is ready waits, and all others keep their distance.

Nothing here touches the engine's thread or its batch: what waits is the event loop's, and the
engine works on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from safekv.clock import Clock
from safekv.engines.hf.loop import HEARTBEAT_S
from safekv.errors import EngineError


@dataclass(frozen=True, slots=True)
class _Mark:
    """At `at_s` the answer had so many tokens and this status."""

    at_s: float
    n_tokens: int
    status: RequestStatus


class HeldOutput:
    """One request's outputs, each later by what the first one is held.

    `due_s` says when the first may go out. The delay of the first token is that of all, so neither
    the time between tokens nor a burst of those that became ready meanwhile tells that it was
    held. Takes a few bytes per token of the answer. Belongs to one event loop.
    """

    def __init__(self, due_s: Callable[[], float], clock: Clock) -> None:
        self._due_s, self._clock = due_s, clock
        self._marks: deque[_Mark] = deque()
        self._output: GenerationOutput | None = None
        self._delay_s: float | None = None
        self._fresh = asyncio.Event()

    def put(self, output: GenerationOutput) -> None:
        """Note what came, and when."""
        mark = _Mark(self._clock.now_s(), len(output.generated_tokens), output.status)
        self._output = output
        self._marks.append(mark)
        self._fresh.set()

    async def get(self, alive: Callable[[], bool]) -> GenerationOutput:
        """The newest output that is due and was not returned yet. Raises like `LatestOutput`."""
        await self._wait(alive)
        mark, now = self._marks.popleft(), self._clock.now_s()
        while self._marks and self._marks[0].at_s + (self._delay_s or 0.0) <= now:
            mark = self._marks.popleft()
        assert self._output is not None, "what is marked has come"
        tokens = self._output.generated_tokens[: mark.n_tokens]
        return replace(self._output, generated_tokens=tokens, status=mark.status)

    async def first(self, alive: Callable[[], bool]) -> None:
        """Wait until the first output may go out. Raises like `get`."""
        if self._delay_s is None:
            await self._wait(alive)

    async def _wait(self, alive: Callable[[], bool]) -> None:
        while not self._marks:
            self._fresh.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), HEARTBEAT_S)
            if not self._marks and not alive():
                raise EngineError("the engine has stopped", "try again later")
        ready = self._marks[0]
        if self._delay_s is None:
            delay = max(0.0, self._due_s() - ready.at_s)
            await self._sleep_until(ready.at_s + delay)
            self._delay_s = delay
        else:
            await self._sleep_until(ready.at_s + self._delay_s)

    async def _sleep_until(self, at_s: float) -> None:
        left = at_s - self._clock.now_s()
        if left > 0:
            await asyncio.sleep(left)
