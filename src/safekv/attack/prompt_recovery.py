"""Find which of many candidate prompts someone else has sent, from response times alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from safekv.attack.timing import median

C = TypeVar("C")
Ask = Callable[[C], float]
"""Sends a candidate and gives the time to its first token in seconds."""

CONTROLS: Final = 3
RECENT: Final = 5


@dataclass(frozen=True, slots=True)
class Recovery(Generic[C]):
    """What an attack came to. `guesses` counts every request it sent, controls included.

    `ttfts_s[i]` belongs to the i-th candidate that was tried, `found` is `None` after a failure.
    """

    found: C | None = field(repr=False)
    guesses: int
    ttfts_s: tuple[float, ...]


def recover(
    candidates: Sequence[C],
    probe: Ask[C],
    cut: float,
    confirm: Ask[C],
    control: Callable[[], float],
    *,
    second_looks: int = 3,
) -> Recovery[C]:
    """Try `candidates` in order and stop at the first that stands out twice.

    `cut` is the share of a miss's time below which an answer counts as a hit. It is applied
    to the latest misses, not to old ones, because an endpoint's speed drifts.

    `probe` is asked once per candidate, because a probe leaves the candidate in the prober's
    own cache and a second one would always be early. `confirm` must therefore time something
    that `probe` did not send, such as words further behind the guess. `control` times a
    prompt that nobody can have sent, with as many words to compute as the other two.

    A candidate is claimed when its confirmation is early against two controls right after it.
    When none is, the `second_looks` quickest that had no confirmation yet get one, since a
    real hit may have been slowed by something else. Sends at most `4 * len(candidates) + 3`
    requests.
    """
    hunt = _Hunt(candidates, probe, cut, confirm, control)
    for place in range(len(candidates)):
        if hunt.stands_out(place) and hunt.holds(place):
            return hunt.outcome(candidates[place])
    for place in hunt.quickest(second_looks):
        if hunt.holds(place):
            return hunt.outcome(candidates[place])
    return hunt.outcome(None)


class _Hunt(Generic[C]):
    """One attack under way: what was asked, and how long misses take at the moment."""

    def __init__(
        self,
        candidates: Sequence[C],
        probe: Ask[C],
        cut: float,
        confirm: Ask[C],
        control: Callable[[], float],
    ) -> None:
        self._candidates = candidates
        self._probe = probe
        self._cut = cut
        self._confirm = confirm
        self._ask_control = control
        self._requests = 0
        self._times_s: list[float] = []
        self._shares: list[float] = []
        self._looked: set[int] = set()
        self._misses_s: deque[float] = deque(maxlen=RECENT)
        for _ in range(CONTROLS):
            self._control()

    def stands_out(self, place: int) -> bool:
        """Probe a candidate; whether it was early against the latest misses."""
        time_s = self._probe(self._candidates[place])
        self._requests += 1
        self._times_s.append(time_s)
        self._shares.append(time_s / median(self._misses_s))
        early = self._shares[-1] < self._cut
        if not early:
            self._misses_s.append(time_s)
        return early

    def holds(self, place: int) -> bool:
        """Look at a candidate once more; whether it is early against fresh controls."""
        self._looked.add(place)
        self._requests += 1
        time_s = self._confirm(self._candidates[place])
        return all(time_s < self._cut * self._control() for _ in range(2))

    def quickest(self, count: int) -> list[int]:
        """The `count` earliest candidates that were probed and not looked at again."""
        left = [place for place in range(len(self._shares)) if place not in self._looked]
        return sorted(left, key=self._shares.__getitem__)[:count]

    def outcome(self, found: C | None) -> Recovery[C]:
        return Recovery(found, self._requests, tuple(self._times_s))

    def _control(self) -> float:
        self._requests += 1
        self._misses_s.append(self._ask_control())
        return self._misses_s[-1]
