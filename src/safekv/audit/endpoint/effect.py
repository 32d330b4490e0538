"""How large a difference is, with its uncertainty, and how large one could have been missed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES: Final = 1_000
FALSE_POSITIVE_RATES: Final = (0.01, 0.001)


def auc(primed: Floats, control: Floats) -> float:
    """The chance that a random control is larger than a random primed value; a tie counts half.

    nan when an arm is empty. O(n * m).
    """
    if not primed.size or not control.size:
        return math.nan
    return float(_wins(primed, control).mean())


def auc_interval(
    primed: Floats, control: Floats, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of `auc`, whole pairs resampled, so it holds under drift.

    Where the arms do not overlap the bootstrap sees no spread; then the far end is the exact
    binomial bound for that many pairs all ordered alike. (nan, nan) without pairs.
    O(resamples * pairs ** 2).
    """
    pairs = primed.size
    if not pairs:
        return math.nan, math.nan
    wins = _wins(primed, control)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=RESAMPLES).astype(np.float64)
    draws = ((counts @ wins) * counts).sum(axis=1) / pairs**2
    tail = (1 - level) / 2
    low, high = (float(value) for value in np.quantile(draws, [tail, 1 - tail]))
    exact = tail ** (1 / pairs)
    if low >= 1.0:
        return exact, 1.0
    return (0.0, 1 - exact) if high <= 0.0 else (low, high)


def _wins(primed: Floats, control: Floats) -> Floats:
    later = (control[None, :] > primed[:, None]).astype(np.float64)
    wins: Floats = later + 0.5 * (control[None, :] == primed[:, None])
    return wins


def tpr_at_fpr(primed: Floats, control: Floats, rate: float) -> float:
    """The share of primed values below a cut that at most `rate` of the controls are below.

    With fewer than `1 / rate` controls the cut lies below all of them. nan when an arm is empty.
    """
    if not primed.size or not control.size:
        return math.nan
    cut = np.sort(control)[int(rate * control.size)]
    return float(np.mean(primed < cut))


def roc(primed: Floats, control: Floats) -> list[tuple[float, float]]:
    """Corners of the ROC curve as (false, true) positive rates, from (0, 0) to (1, 1)."""
    cuts: Iterable[float] = np.unique(np.concatenate([primed, control]))
    inner = [(float(np.mean(control <= cut)), float(np.mean(primed <= cut))) for cut in cuts]
    return [(0.0, 0.0), *inner]


def detectable_auc(pairs: int, level: float, power: float) -> float:
    """The smallest AUC that a test at `level` finds with chance `power`, for timed values.

    From the Mann-Whitney statistic's variance without a difference, (2 n + 1) / (12 n^2)
    (Noether 1987). 1.0 when only a perfect separation, or nothing, would be found.
    """
    if pairs < math.log2(1 / level):
        return 1.0
    deviations = stats.norm.isf(level) + stats.norm.ppf(power)
    return min(1.0, 0.5 + float(deviations) * math.sqrt((2 * pairs + 1) / (12 * pairs**2)))


def detectable_count_auc(pairs: int, level: float, power: float) -> float:
    """The same for counted values tested by `larger_p`: a share of pairs tells, the rest ties."""
    needed = math.ceil(math.log2(1 / level))
    if pairs < needed:
        return 1.0
    telling = float(stats.beta.ppf(power, needed, pairs - needed + 1))
    return min(1.0, 0.5 + telling / 2)
