"""When requests are sent: decided before the first one goes out, whatever the server does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safekv.errors import ConfigError

AT_ONCE: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Send times at `rate` requests a second on average; `AT_ONCE` sends all together.

    With `times_s` (those of a trace, ascending) the gaps between requests are a stretch of
    these, scaled to the rate; without, they are exponential (a Poisson process).
    Raises `ConfigError` for a rate that is not positive, or times that do not pass.
    """

    rate: float
    times_s: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ConfigError(f"rate is {self.rate}", "use more than 0 requests a second")
        if self.times_s and not self.times_s[-1] > self.times_s[0]:
            raise ConfigError(
                "all requests of the trace have the same time", "pass a trace that has times"
            )

    def schedule(self, n: int, seed: str) -> list[float]:
        """Seconds from the start at which each of `n` requests is sent, ascending from 0."""
        if self.rate == AT_ONCE or n < 2:
            return [0.0] * n
        rng = random.Random(f"{seed}/arrivals")  # noqa: S311 - a workload, not a secret
        times = self._stretch(n, rng) if self.times_s else _poisson(n, rng)
        scale = (n - 1) / self.rate / (times[-1] - times[0]) if self.times_s else 1 / self.rate
        return [scale * (at - times[0]) for at in times]

    def _stretch(self, n: int, rng: random.Random) -> list[float]:
        """`n` consecutive times of the trace in which time passes."""
        if len(self.times_s) < n:
            raise ConfigError(
                f"the trace has {len(self.times_s)} requests, {n} are to be sent",
                "pass a longer trace, or send fewer",
            )
        for _ in range(1000):
            start = rng.randrange(len(self.times_s) - n + 1)
            times = list(self.times_s[start : start + n])
            if times[-1] > times[0]:
                return times
        raise ConfigError(
            f"the trace has hardly {n} requests at different times", "pass another trace"
        )


def _poisson(n: int, rng: random.Random) -> list[float]:
    times, now = [], 0.0
    for _ in range(n):
        times.append(now)
        now += rng.expovariate(1.0)
    return times
