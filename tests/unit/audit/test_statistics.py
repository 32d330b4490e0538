"""The statistics of an audit: exact where they say so, and honest about what they cannot see."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from safekv.audit.endpoint import effect
from safekv.audit.endpoint.discrete import category_p, different_p, larger_p
from safekv.audit.endpoint.randomisation import classical_p, paired_p
from safekv.audit.endpoint.sequential import SequentialTests, holm, spending

RNG = np.random.default_rng(5)


def test_a_perfect_separation_has_the_smallest_p_value_there_is() -> None:
    primed, control = np.arange(1.0, 9.0), np.arange(11.0, 19.0)
    # 2 of 2^8 labellings separate the arms in the leak's direction or equal it: 1 does.
    assert paired_p(primed, control, draws=40_000, seed=1) == pytest.approx(2**-8, rel=0.25)
    assert paired_p(control, primed, draws=40_000, seed=1) > 0.9


def test_p_values_of_a_full_enumeration_agree_with_the_drawn_ones() -> None:
    primed, control = RNG.normal(0, 1, 8), RNG.normal(0.8, 1, 8)
    differences = control - primed
    ranks = stats.rankdata(np.abs(differences)) * np.sign(differences)
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    exact = np.mean(signs @ ranks >= ranks.sum() - 1e-9)
    # Our statistic takes the best of three, so it cannot be much smaller than any of them.
    found = paired_p(np.exp(primed), np.exp(control), draws=20_000, seed=3)
    assert exact / 2 < found < 3 * exact + 0.02


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_pairs_prove_nothing(count: int) -> None:
    assert paired_p(np.zeros(count), np.ones(count), draws=100, seed=0) == 1.0


def test_equal_values_prove_nothing() -> None:
    assert paired_p(np.full(30, 0.2), np.full(30, 0.2), draws=2_000, seed=0) == 1.0


def test_p_values_are_valid_where_every_second_request_is_slow() -> None:
    """A two-sample test is fooled by such an endpoint; counting drawn orders is not."""
    ours, classical = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        slow = rng.integers(0, 2, 30).astype(float)  # who comes second in each pair
        noise = rng.normal(0, 0.01, (2, 30))
        primed, control = 1 + slow + noise[0], 2 - slow + noise[1]
        ours.append(paired_p(primed, control, draws=999, seed=seed) <= 0.05)
        classical.append(classical_p(primed, control)[1] <= 0.05)
    assert sum(ours) <= stats.binom.ppf(0.999, 300, 0.05)
    assert sum(classical) > sum(ours)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_sign_test_is_the_share_of_labellings(pairs: list[tuple[int, int]]) -> None:
    primed = np.array([a for a, _ in pairs], dtype=float)
    control = np.array([b for _, b in pairs], dtype=float)
    up = int((primed > control).sum())
    telling = up + int((primed < control).sum())
    tails = sum(math.comb(telling, k) for k in range(up, telling + 1))
    assert larger_p(primed, control) == pytest.approx(tails / 2**telling if telling else 1.0)
    assert different_p(primed, control) <= 1.0


def test_categories_are_compared_and_identifiers_are_not() -> None:
    assert category_p(["HIT"] * 20, ["MISS"] * 20, seed=0) == pytest.approx(2**-19)
    assert category_p(["a", "b", "c"] * 7, ["d"] * 21, seed=0) < 0.001
    assert category_p([str(i) for i in range(20)], ["x"] * 20, seed=0) == 1.0
    assert category_p(["same"] * 9, ["same"] * 9, seed=0) == 1.0


def test_auc_counts_ties_half_and_its_interval_holds_it() -> None:
    assert effect.auc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.875
    primed, control = RNG.normal(0, 1, 60), RNG.normal(1, 1, 60)
    low, high = effect.auc_interval(primed, control)
    assert low < effect.auc(primed, control) < high
    assert high - low < 0.25


def test_a_perfect_auc_of_few_pairs_is_not_certain() -> None:
    low, high = effect.auc_interval(np.zeros(10), np.ones(10))
    assert (round(low, 3), high) == (round(0.025**0.1, 3), 1.0)


def test_tpr_at_a_false_positive_rate() -> None:
    control = np.arange(100.0)
    primed = np.array([-1.0, 0.5, 1.5, 50.0])
    assert effect.tpr_at_fpr(primed, control, 0.01) == 0.5  # below 1: one control is
    assert effect.tpr_at_fpr(primed, control, 0.001) == 0.25  # below all controls


def test_the_roc_curve_ends_at_one_one_and_its_area_is_the_auc() -> None:
    primed, control = RNG.normal(0, 1, 40), RNG.normal(1, 1, 50)
    points = effect.roc(primed, control)
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    x, y = zip(*points, strict=True)
    assert np.trapezoid(y, x) == pytest.approx(effect.auc(primed, control))


def test_small_samples_detect_nothing() -> None:
    assert effect.detectable_auc(5, 0.001, 0.9) == 1.0
    assert effect.detectable_count_auc(5, 0.001, 0.9) == 1.0
    assert effect.detectable_auc(60, 0.001, 0.9) == pytest.approx(0.731, abs=0.001)
    assert effect.detectable_auc(240, 0.001, 0.9) < effect.detectable_auc(60, 0.001, 0.9)


def test_the_detectable_share_of_counts_is_found_that_often() -> None:
    level, power, pairs = 0.001, 0.9, 60
    share = 2 * (effect.detectable_count_auc(pairs, level, power) - 0.5)
    needed = math.ceil(math.log2(1 / level))
    assert stats.binom.sf(needed - 1, pairs, share) == pytest.approx(power)


def test_the_error_is_spent_once() -> None:
    shares = spending([0.25, 0.5, 1.0])
    assert sum(shares) == pytest.approx(1.0)
    for wrong in ([], [0.5], [0.5, 0.5, 1], [0.7, 0.3, 1]):
        with pytest.raises(ValueError, match="looks"):
            spending(wrong)


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_what_was_rejected_stays_rejected() -> None:
    tests = SequentialTests([0.5, 0.5])
    tests.note("a", 0, 0.001)
    tests.note("b", 0, 0.5)
    assert tests.adjusted()["a"] == pytest.approx(0.004)
    tests.note("a", 1, 0.9)
    assert tests.adjusted()["a"] == pytest.approx(0.004)
    assert tests.final_level(0.01) == pytest.approx(0.0025)
