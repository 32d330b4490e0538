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
    """What an attack came to. `guesses` counts every request it sent, confirmations included.

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
    control: Callable[[], float],
    *,
    second_looks: int = 3,
) -> Recovery[C]:
    """Try `candidates` in order and stop at the first that stands out twice.

    `probe` is asked once per candidate, because a probe leaves the candidate in the prober's
    own cache and a second one would always be early. `confirm` must therefore time something
    that `probe` did not send, such as words further behind the guess. `control` times a
    prompt that nobody can have sent: it shows that the endpoint is not merely quick just now.

    A candidate is claimed when its probe and its confirmation are below `threshold_s` and the
    control after them is not. When none is, the `second_looks` quickest that had no
    confirmation yet get one, since a real hit may have been slowed by something else. Sends
    at most three times `len(candidates)` requests.
    """
    times: list[float] = []
    looked: set[int] = set()
    requests = 0

    def holds(place: int) -> bool:
        nonlocal requests
        looked.add(place)
        requests += 1
        if confirm(candidates[place]) >= threshold_s:
            return False
        requests += 1
        return control() >= threshold_s

    for place, candidate in enumerate(candidates):
        times.append(probe(candidate))
        if times[-1] < threshold_s and holds(place):
            return Recovery(candidate, len(times) + requests, tuple(times))
    for place in _quickest(times, looked, second_looks):
        if holds(place):
            return Recovery(candidates[place], len(times) + requests, tuple(times))
    return Recovery(None, len(times) + requests, tuple(times))


def _quickest(times: Sequence[float], but: set[int], count: int) -> list[int]:
    left = [place for place in range(len(times)) if place not in but]
    return sorted(left, key=times.__getitem__)[:count]
