"""Many requests at the same moment: does a server answer first what another tenant sent before?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Barrier
from types import TracebackType
from typing import Final, TypeVar

from safekv.audit.endpoint.line import Line
from safekv.audit.endpoint.observation import Observation
from safekv.audit.endpoint.wire import Form

ANSWERED: Final = "200"
LONGEST_START_S: Final = 10.0

K = TypeVar("K")
Open = Callable[[], Line]
"""Opens a connection of its own for the probing key."""


class Crowd:
    """Connections of one key that send at once, and tell in which order the answers began.

    This is the channel of PROMPTPEEK (NDSS 2025): a scheduler that prefers the longest cached
    prefix, or just finishes it sooner, betrays a hit by its place, however slow the machine is.
    Which connection carries which prompt is for the caller to draw. Close it, or use `with`.
    """

    def __init__(self, size: int, open_line: Open) -> None:
        """Opens `size` connections, at least two."""
        self._stack = ExitStack()
        self._lines = [self._stack.enter_context(open_line()) for _ in range(size)]
        self._threads = self._stack.enter_context(ThreadPoolExecutor(size))

    @property
    def size(self) -> int:
        return len(self._lines)

    @property
    def requests(self) -> int:
        """How many requests these connections sent, tries of refused ones included."""
        return sum(line.requests for line in self._lines)

    @property
    def waited_for_limits(self) -> int:
        return sum(line.waited_for_limits for line in self._lines)

    def use(self, form: Form) -> None:
        """Ask in this form from now on."""
        for line in self._lines:
            line.form = form

    def ask(self, texts: Sequence[str]) -> list[Observation]:
        """Send one text on each connection at once; the answers, in the order of `texts`.

        All have a `rank` unless one of them failed or was refused at first: then the places
        say nothing, and none has one. Raises `TargetError` as `Line.ask` does, and `ValueError`
        unless there is a text for each connection.
        """
        start = Barrier(self.size)

        def send(line: Line, text: str) -> Observation:
            start.wait(LONGEST_START_S)
            return line.ask(text)

        sent = [
            self._threads.submit(send, line, text)
            for line, text in zip(self._lines, texts, strict=True)
        ]
        return ranked([one.result() for one in sent])

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def ranked(seen: Sequence[Observation]) -> list[Observation]:
    """The same with places from 1 by the moment of the first text; as they are if one has none."""
    moments = [one.first_at_s for one in seen if one.outcome == ANSWERED]
    if len(moments) < len(seen) or None in moments:
        return list(seen)
    order = sorted(range(len(seen)), key=lambda place: seen[place].first_at_s or 0.0)
    ranks = {place: rank for rank, place in enumerate(order, 1)}
    return [replace(one, rank=ranks[place]) for place, one in enumerate(seen)]


def places(prompts: Mapping[K, str], answers: Mapping[str, Observation]) -> dict[K, int]:
    """The rank of each prompt's answer; empty where the places say nothing."""
    found = {key: answers[text].rank for key, text in prompts.items()}
    return {key: rank for key, rank in found.items() if rank is not None}
