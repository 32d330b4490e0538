"""How much of a story still fits the time it has, on a machine whose speed is not known before."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from safekv.attack.timing import median

RECENT: Final = 8


class Pace:
    """Counts the requests that still fit before `deadline`, by the latest ones' times.

    `deadline` and `now` are seconds of the same clock. Without a deadline everything fits.
    """

    def __init__(
        self, deadline: float = math.inf, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._deadline = deadline
        self._now = now
        self._recent_s: deque[float] = deque(maxlen=RECENT)

    def note(self, seconds: float) -> None:
        """Remember how long a request took."""
        self._recent_s.append(seconds)

    def fitting(self, cost: float, least: int, most: int, *, reserve: float = 0) -> int:
        """How many items of `cost` requests each fit, when `reserve` requests follow them.

        Never less than `least`: below that the numbers would mean nothing, and it is better
        to be late. All `most` before anything was noted.
        """
        left_s = self._deadline - self._now()
        if not self._recent_s or left_s == math.inf:
            return most
        requests = left_s / median(self._recent_s)
        return max(least, min(most, math.floor((requests - reserve) / cost)))
