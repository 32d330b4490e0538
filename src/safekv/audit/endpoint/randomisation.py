"""Tests of paired samples whose only assumption is the coin that the audit itself tossed.

Within a block, which of two requests came first was decided at random. If the endpoint treats
both alike, swapping their labels changes nothing, whatever the noise looks like: heavy tails,
drift, autocorrelation. So the chance of a result is counted over labellings that could have been
drawn as well, as in Fisher's randomisation test; no distribution is assumed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_ndtr

Floats = NDArray[np.float64]
Signs = NDArray[np.int8]

FIRST_DRAWS: Final = 1_999
ENOUGH_EXCEEDANCES: Final = 20
CHUNK: Final = 2_000
LEAST_PAIRS: Final = 4
SHORTEST: Final = 1e-9
ROUNDING: Final = 1e-4
"""Labellings this close to the observed one count as equal to it."""


def paired_p(primed: Floats, control: Floats, *, draws: int, seed: int) -> float:
    """The p-value of: `primed[i]` tends to be smaller than `control[i]`. No value may be nan.

    The statistic is the largest of three: Mann-Whitney (a shift), the signed rank of log ratios
    (a shift under drift) and Kolmogorov-Smirnov (any shape). Drawn labellings go through the same
    choice, so that `p` needs no correction for it. Draws stop early once `p` is clearly large,
    which can only raise it (Besag and Clifford 1991). Fewer than four pairs give 1.
    Never below `1 / (draws + 1)`. O(draws * pairs).
    """
    if primed.size < LEAST_PAIRS:
        return 1.0
    return _monte_carlo(_Statistic(primed, control), draws, np.random.default_rng(seed))


def classical_p(primed: Floats, control: Floats) -> tuple[float, float]:
    """One-sided two-sample Kolmogorov-Smirnov and Mann-Whitney p-values: is `primed` smaller?

    They hold for independent samples only; given to compare with the literature, nothing is
    decided by them. No arm may be empty.
    """
    ks = stats.ks_2samp(primed, control, alternative="greater", method="auto")
    mw = stats.mannwhitneyu(primed, control, alternative="less", method="asymptotic")
    return float(ks.pvalue), float(mw.pvalue)


def _monte_carlo(statistic: _Statistic, draws: int, rng: np.random.Generator) -> float:
    """Share of labellings, the observed one included, that look at least as much like a leak."""
    observed = statistic(np.ones((1, statistic.pairs), dtype=np.int8))[0] - ROUNDING
    first = min(FIRST_DRAWS, draws)
    exceed = _count(statistic, observed, first, rng)
    if exceed >= ENOUGH_EXCEEDANCES or first == draws:
        return (1 + exceed) / (1 + first)
    exceed += _count(statistic, observed, draws - first, rng)
    return (1 + exceed) / (1 + draws)


def _count(statistic: _Statistic, observed: float, draws: int, rng: np.random.Generator) -> int:
    exceed = 0
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start), statistic.pairs)
        signs = rng.integers(0, 2, size=size, dtype=np.int8) * np.int8(2) - np.int8(1)
        exceed += int(np.count_nonzero(statistic(signs) >= observed))
    return exceed


class _Statistic:
    """How much like a leak a labelling looks; `+1` keeps a pair's labels, `-1` swaps them.

    Values are minus log p-values of three classical tests, so that their maximum is fair.
    """

    def __init__(self, primed: Floats, control: Floats) -> None:
        self.pairs = primed.size
        both = np.concatenate([primed, control])
        ranks = stats.rankdata(both)
        logs = np.log(np.maximum(both, SHORTEST))
        ratios = logs[self.pairs :] - logs[: self.pairs]
        shift = ranks[self.pairs :] - ranks[: self.pairs]
        signed = np.sign(ratios) * stats.rankdata(np.abs(ratios))
        self._weights = np.stack([_unit(shift), _unit(signed)], axis=1).astype(np.float32)
        order = np.argsort(both, kind="stable")
        self._pair_at = order % self.pairs
        self._arm_at = np.where(order < self.pairs, 1, -1).astype(np.int8)
        ordered = both[order]
        # Between equal values there is no step of the distribution function to look at.
        self._step_ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def __call__(self, signs: Signs) -> Floats:
        """One value per row of `signs`, shape (labellings, pairs)."""
        shifts = (signs.astype(np.float32) @ self._weights).astype(np.float64)
        labels = np.take(signs, self._pair_at, axis=1) * self._arm_at
        gaps = np.cumsum(labels, axis=1, dtype=np.int32)
        if self._step_ends.size < gaps.shape[1]:
            gaps = gaps[:, self._step_ends]
        distance = np.maximum(gaps.max(axis=1), 0) / self.pairs
        found: Floats = np.maximum(-log_ndtr(-shifts).max(axis=1), self.pairs * distance**2)
        return found


def _unit(weights: Floats) -> Floats:
    """Weights whose random sum has a standard deviation of 1; all zero where they are."""
    size = float(np.sqrt(np.square(weights).sum()))
    return weights / size if size > 0 else weights
