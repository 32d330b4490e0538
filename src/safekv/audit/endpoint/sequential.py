"""Looks at growing data that may stop early, and many tests at once, with one error rate.

A sequential p-value is the smallest of the looks' p-values, each divided by the share of the error
that its look may spend. The shares follow the Pocock-type spending function of Lan and DeMets
(1983), `ln(1 + (e - 1) t)` at the fraction `t` of the data, and add up to 1: by the union bound the
result is a valid p-value whatever the dependence between looks. It never rises, so Holm's step-down
procedure over all tests may be applied at every look, and what it rejected stays rejected.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def spending(fractions: Sequence[float]) -> tuple[float, ...]:
    """Each look's share of the error, for looks at these fractions of the data.

    Raises `ValueError` unless they rise to 1.
    """
    edges = [0.0, *fractions]
    if len(edges) < 2 or edges[-1] != 1 or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"looks at {list(fractions)} do not rise from 0 to 1")
    spent = [math.log(1 + (math.e - 1) * t) for t in edges]
    return tuple(b - a for a, b in pairwise(spent))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """p-values adjusted by Holm (1979): reject those that are at most the wanted error rate.

    Controls the chance of one false rejection or more, under any dependence.
    """
    adjusted: dict[K, float] = {}
    floor = 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p))
        adjusted[key] = floor
    return adjusted


class SequentialTests:
    """The sequential p-values of one family of tests."""

    def __init__(self, shares: Sequence[float]) -> None:
        self._shares = tuple(shares)
        self._p: dict[Hashable, float] = {}

    def note(self, key: Hashable, look: int, p: float) -> None:
        """Take in the p-value of a test at a look, counted from 0. Missing a look is allowed."""
        spent = min(1.0, p / self._shares[look])
        self._p[key] = min(self._p.get(key, 1.0), spent)

    def adjusted(self) -> dict[Hashable, float]:
        """Holm-adjusted sequential p-values of all tests noted so far."""
        return holm(self._p)

    def final_level(self, alpha: float) -> float:
        """The p-value that the last look needs when no other test is rejected: the hardest case."""
        return alpha * self._shares[-1] / max(1, len(self._p))
