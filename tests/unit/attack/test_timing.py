from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.attack.timing import (
    auc,
    bootstrap_interval,
    median,
    null_deviation,
    quantile,
    threshold,
)

times = st.lists(st.floats(0, 10), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("targets", "decoys", "expected"),
    [
        ([1.0, 2.0], [3.0, 4.0], 1.0),
        ([3.0, 4.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.0], 0.5),
        ([1.0, 3.0], [2.0, 4.0], 0.75),
        ([5.0], [5.0], 0.5),
    ],
)
def test_auc_is_the_chance_that_the_decoy_is_slower(
    targets: list[float], decoys: list[float], expected: float
) -> None:
    assert auc(targets, decoys) == expected


@given(times, times)
def test_swapping_the_arms_mirrors_auc(a: list[float], b: list[float]) -> None:
    assert auc(a, b) == pytest.approx(1 - auc(b, a))


def test_auc_needs_both_arms() -> None:
    with pytest.raises(ValueError, match="both arms"):
        auc([1.0], [])


def test_quantiles_are_interpolated() -> None:
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert median([3.0, 1.0, 2.0]) == 2.0


@pytest.mark.parametrize(("values", "q"), [([], 0.5), ([1.0], 1.5)])
def test_quantiles_of_nothing_or_beyond_are_refused(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match=r"no values|not in"):
        quantile(values, q)


@given(times, st.floats(0, 1))
def test_a_quantile_lies_between_the_extremes(values: list[float], q: float) -> None:
    assert min(values) - 1e-9 <= quantile(values, q) <= max(values) + 1e-9


def test_the_interval_holds_the_estimate_and_repeats() -> None:
    rng = random.Random(1)
    a = [rng.gauss(1, 1) for _ in range(20)]
    b = [rng.gauss(1.5, 1) for _ in range(20)]
    low, high = bootstrap_interval(a, b)
    assert low < auc(a, b) < high
    assert (low, high) == bootstrap_interval(a, b)


def test_the_interval_of_separate_arms_is_a_point() -> None:
    assert bootstrap_interval([1.0, 2.0], [3.0, 4.0]) == (1.0, 1.0)


def test_the_null_deviation_is_what_chance_gives() -> None:
    rng = random.Random(7)
    draws = [
        auc([rng.random() for _ in range(12)], [rng.random() for _ in range(9)])
        for _ in range(3000)
    ]
    spread = (sum((d - 0.5) ** 2 for d in draws) / len(draws)) ** 0.5
    assert spread == pytest.approx(null_deviation(12, 9), rel=0.05)


def test_the_threshold_lies_in_the_gap() -> None:
    hits, misses = [0.10, 0.11, 0.12], [0.30, 0.31, 0.35]
    assert max(hits) < threshold(hits, misses) < min(misses)


def test_one_disturbed_hit_does_not_move_the_threshold_beyond_the_misses() -> None:
    hits = [0.10] * 10 + [9.0]
    misses = [0.30] * 11
    assert threshold(hits, misses) == pytest.approx(0.2)


def test_overlapping_arms_are_cut_between_their_medians() -> None:
    assert threshold([1.0, 2.0, 9.0], [1.5, 4.0, 5.0]) == 3.0
