"""Statistics of response times: is there a difference, and where would one draw the line?

Pure Python on purpose: samples are small (n < 100) and an attack needs nothing else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence


def quantile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile of `values`, interpolated linearly between neighbours. O(n log n).

    Raises `ValueError` when there are no values or `q` lies outside 0..1.
    """
    if not values:
        raise ValueError("no values to take a quantile of")
    if not 0 <= q <= 1:
        raise ValueError(f"q is {q}, not in 0..1")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Iterable[float]) -> float:
    """The middle of `values`; the mean of the two middle ones when their number is even."""
    return quantile(list(values), 0.5)


def auc(targets: Sequence[float], decoys: Sequence[float]) -> float:
    """The chance that a random decoy took longer than a random target; a tie counts half.

    0.5 means the times tell nothing, 1.0 that every target was quicker than every decoy.
    O(n * m). Raises `ValueError` when an arm is empty.
    """
    if not targets or not decoys:
        raise ValueError("both arms need at least one sample")
    wins = sum((d > t) + 0.5 * (d == t) for t in targets for d in decoys)
    return wins / (len(targets) * len(decoys))


def bootstrap_interval(
    targets: Sequence[float],
    decoys: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """A percentile bootstrap interval of `auc`, each arm resampled by itself.

    It is degenerate, (1, 1) or (0, 0), when the arms do not overlap at all: then it says
    nothing about how far they would overlap in a larger sample. O(resamples * n * m).
    """
    rng = random.Random(seed)  # noqa: S311 - resampling, not a secret
    draws = [
        auc(rng.choices(targets, k=len(targets)), rng.choices(decoys, k=len(decoys)))
        for _ in range(resamples)
    ]
    tail = (1 - level) / 2
    return quantile(draws, tail), quantile(draws, 1 - tail)


def null_deviation(targets: int, decoys: int) -> float:
    """The standard deviation of `auc` when both arms come from one distribution without ties.

    The variance of the Mann-Whitney statistic: (n + m + 1) / (12 n m).
    """
    return math.sqrt((targets + decoys + 1) / (12 * targets * decoys))


def threshold(hits: Sequence[float], misses: Sequence[float]) -> float:
    """Where to cut between `hits` and `misses`: in the middle of the gap between them.

    The gap runs from the 90 % quantile of hits to the 10 % quantile of misses, so that one
    disturbed sample does not move it. Where they overlap, the cut is midway between the
    medians. In the unit of the input.
    """
    low, high = quantile(hits, 0.9), quantile(misses, 0.1)
    if low >= high:
        low, high = median(hits), median(misses)
    return (low + high) / 2
