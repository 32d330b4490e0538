"""Find which of many candidate prompts someone else has sent, from response times alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

C = TypeVar("C")
Ask = Callable[[C], float]
"""Sends a candidate and gives the time to its first token in seconds."""


@dataclass(frozen=True, slots=True)
class Recovery(Generic[C]):
    """What an attack came to. `guesses` counts every request it sent, second looks included.

    `ttfts_s[i]` belongs to the i-th candidate that was tried, `found` is `None` after a failure.
    """

    found: C | None = field(repr=False)
    guesses: int
    ttfts_s: tuple[float, ...]


def recover(
    candidates: Sequence[C],
    probe: Ask[C],
    threshold_s: float,
    confirm: Ask[C],
    *,
    second_looks: int = 3,
) -> Recovery[C]:
    """Try `candidates` in order and stop at the first that answers early twice.

    `probe` is asked once per candidate, because a probe leaves the candidate in the prober's
    own cache and a second one would always be early. `confirm` must therefore time something
    that `probe` did not send, such as words further behind the guess.

    A candidate is claimed when both are below `threshold_s`. When none is, the
    `second_looks` quickest that were not confirmed yet get a second look, since a real hit
    may have been slowed by something else. Sends at most twice `len(candidates)` requests.
    """
    times: list[float] = []
    confirmed: set[int] = set()
    for place, candidate in enumerate(candidates):
        times.append(probe(candidate))
        if times[-1] < threshold_s:
            confirmed.add(place)
            if confirm(candidate) < threshold_s:
                return Recovery(candidate, len(times) + len(confirmed), tuple(times))
    for place in _quickest(times, confirmed, second_looks):
        confirmed.add(place)
        if confirm(candidates[place]) < threshold_s:
            return Recovery(candidates[place], len(times) + len(confirmed), tuple(times))
    return Recovery(None, len(times) + len(confirmed), tuple(times))


def _quickest(times: Sequence[float], but: set[int], count: int) -> list[int]:
    left = [place for place in range(len(times)) if place not in but]
    return sorted(left, key=times.__getitem__)[:count]
