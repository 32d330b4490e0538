"""Exact tests of what is counted or named, not timed: usage fields, headers, statuses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

DRAWS: Final = 9_999
MOST_VALUES: Final = 12
"""A header with more distinct values than this is an identifier or a clock, not an answer."""


def larger_p(primed: Floats, control: Floats) -> float:
    """Exact one-sided sign test: does `primed[i]` tend to be the larger one? Ties count nothing.

    Exact under the audit's own randomisation.
    """
    return _sign_p(primed, control, "greater")


def different_p(primed: Floats, control: Floats) -> float:
    """The same, two-sided: is one of them usually larger?"""
    return _sign_p(primed, control, "two-sided")


def _sign_p(primed: Floats, control: Floats, alternative: str) -> float:
    up = int(np.count_nonzero(primed > control))
    down = int(np.count_nonzero(primed < control))
    if up + down == 0:
        return 1.0
    return float(stats.binomtest(up, up + down, 0.5, alternative=alternative).pvalue)


def category_p(
    primed: Sequence[Hashable], control: Sequence[Hashable], *, seed: int, draws: int = DRAWS
) -> float:
    """Do named values (`hit`, `miss`, 200, 429, …) differ between the arms?

    Two values: the exact two-sided sign test (McNemar's). More: total variation distance, with
    labels swapped within pairs at random, so never below `1 / (draws + 1)`. With one value, or
    more than twelve, nothing can be told: 1.
    """
    values = sorted({*primed, *control}, key=repr)
    if not 2 <= len(values) <= MOST_VALUES:
        return 1.0
    place = {value: index for index, value in enumerate(values)}
    a = np.array([place[value] for value in primed], dtype=np.float64)
    b = np.array([place[value] for value in control], dtype=np.float64)
    if len(values) == 2:
        return different_p(a, b)
    steps = np.stack([(a == i).astype(float) - (b == i) for i in range(len(values))], axis=1)
    signs = np.random.default_rng(seed).integers(0, 2, size=(draws, a.size)) * 2.0 - 1.0
    observed = np.abs(steps.sum(axis=0)).sum() - 1e-9
    exceed = int(np.count_nonzero(np.abs(signs @ steps).sum(axis=1) >= observed))
    return (1 + exceed) / (1 + draws)
