"""Medians and paired ratios with bootstrap intervals, for small samples."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
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
