"""Quantiles, and paired ratios with bootstrap intervals, for small samples."""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def paired_ratio(ours: Sequence[float], peer: Sequence[float], draws: int = 2000) -> Ratio:
    """Median of `ours[i] / peer[i]` over rounds, resampled by round.

    Pairing takes out what slows both halves of a round alike, such as another job on the
    machine. Raises `ValueError` for unequal or empty samples.
    """
    if len(ours) != len(peer) or not ours:
        raise ValueError(f"{len(ours)} and {len(peer)} samples cannot be paired")
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    # A fixed seed: the interval of a record must be reproducible from its samples.
    rng = random.Random(0)  # noqa: S311 - statistics, not a secret
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    low, high = medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]
    return Ratio(statistics.median(ratios), low, high)


def rates(own_s: Sequence[float], size_bytes: int) -> dict[str, float]:
    """How fast `size_bytes` were worked off in rounds of `own_s` seconds: GB/s (1e9), as a row has
    them. Raises `statistics.StatisticsError` without a round."""
    return {
        "size_bytes": size_bytes,
        "gb_per_s": size_bytes / statistics.median(own_s) / 1e9,
        "gb_per_s_best": size_bytes / min(own_s) / 1e9,
        "rounds": len(own_s),
    }


def ks(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The Kolmogorov-Smirnov distance of two samples and its asymptotic p-value.

    Too large for fewer than some dozens. O(n log n). Raises `ValueError` for an empty sample.
    """
    if not first or not second:
        raise ValueError("both samples need a value")
    a, b = sorted(first), sorted(second)
    distance = 0.0
    for value in (*a, *b):
        below = [bisect_right(sample, value) / len(sample) for sample in (a, b)]
        distance = max(distance, abs(below[0] - below[1]))
    scale = math.sqrt(len(a) * len(b) / (len(a) + len(b))) * distance
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scale) ** 2) for k in range(1, 101))
    return distance, 1.0 if scale < 0.2 else min(1.0, max(0.0, p))


def clustered_ratio(
    ours: Mapping[int, Sequence[float]],
    peer: Mapping[int, Sequence[float]],
    statistic: Callable[[Sequence[float]], float] = statistics.median,
    draws: int = 2000,
) -> Ratio | None:
    """`statistic` of all of `ours` over that of all of `peer`, resampled by run and by request.

    Runs are the keys; the n-th sample of a run is the same request on both sides. Requests of
    one run share what the machine did meanwhile, so runs are drawn first, with replacement, and
    then requests within them, the same on both sides. With three runs or fewer the interval is
    too narrow: no resampling shows what was not measured. `None` without a run that both have.
    """
    runs = [run for run in ours if run in peer and ours[run]]
    if any(len(ours[run]) != len(peer[run]) for run in runs):
        raise ValueError("the two sides have different requests")
    if not runs:
        return None
    rng = random.Random(0)  # noqa: S311 - statistics, not a secret
    found = []
    for _ in range(draws):
        picked = [
            (run, rng.randrange(len(ours[run])))
            for run in rng.choices(runs, k=len(runs))
            for _ in ours[run]
        ]
        below = statistic([peer[run][n] for run, n in picked])
        if below > 0:
            found.append(statistic([ours[run][n] for run, n in picked]) / below)
    below = statistic([value for run in runs for value in peer[run]])
    if not found or below <= 0:
        return None
    found.sort()
    value = statistic([value for run in runs for value in ours[run]]) / below
    return Ratio(value, found[int(0.025 * len(found))], found[int(0.975 * len(found)) - 1])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all are not above (nearest rank). Not for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """p50, p95, p99, mean and count; `None` for no values. With few, p99 is the largest."""
    if not values:
        return None
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    found: dict[str, float | int] = {
        name: round(quantile(values, share), 5) for name, share in shares.items()
    }
    return {**found, "mean": round(statistics.fmean(values), 5), "n": len(values)}
