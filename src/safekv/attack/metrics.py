"""How much of a prompt came back, and how sure that number is.

Pure Python: what a text's meaning is worth is measured in `similarity`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts and its 95 % interval."""

    value: float
    low: float
    high: float


def token_recovery(found: Sequence[int | None], true: Sequence[int]) -> float:
    """The share of positions whose token is right. `None` is wrong.

    Raises `ValueError` for sequences of unlike or no length: positions are compared.
    """
    if len(found) != len(true) or not true:
        raise ValueError(f"{len(found)} tokens cannot be compared with {len(true)} by position")
    return sum(a == b for a, b in zip(found, true, strict=True)) / len(true)


def common_subsequence(first: Sequence[object], second: Sequence[object]) -> int:
    """The length of the longest common subsequence. O(n * m)."""
    row = [0] * (len(second) + 1)
    for one in first:
        before = 0
        for n, two in enumerate(second, 1):
            before, row[n] = row[n], before + 1 if one == two else max(row[n], row[n - 1])
    return row[-1]


def aligned_recovery(found: Sequence[int], true: Sequence[int]) -> float:
    """The share of `true` that `found` has in its order: for text without positions."""
    return common_subsequence(found, true) / len(true)


def rouge_l(found: str, true: str) -> float:
    """ROUGE-L, the F-measure over words in lower case (Lin 2004, beta 1). 0 for no words."""
    one, two = found.lower().split(), true.lower().split()
    common = common_subsequence(one, two)
    return 2 * common / (len(one) + len(two)) if common else 0.0


def spans_recovered(found: str, spans: Sequence[str]) -> float:
    """The share of `spans` that stand in `found` word for word. Raises `ValueError` for none."""
    if not spans:
        raise ValueError("there are no spans to look for")
    return sum(span in found for span in spans) / len(spans)


def mean_of(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean with a 95 % interval over prompts.

    A percentile bootstrap, widened to what no failure (or no success) in n prompts leaves
    possible, so that 20 equal values of 0 or 1 do not claim certainty: the rule of three at 95 %,
    1 - 0.025^(1/n). Raises `ValueError` without values.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Estimate(mean, 0.0, 1.0)
    rng = random.Random(seed)  # noqa: S311 - resampling, not a secret
    means = sorted(math.fsum(rng.choices(values, k=n)) / n for _ in range(RESAMPLES))
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    slack = 1 - 0.025 ** (1 / n)
    if min(values) == max(values):
        low, high = max(0.0, mean - slack), min(1.0, mean + slack)
    return Estimate(mean, low, high)
