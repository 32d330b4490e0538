"""Scores of recovered text, and intervals that do not claim more than the prompts show."""

from __future__ import annotations

import pytest

from safekv.attack.metrics import (
    aligned_recovery,
    common_subsequence,
    mean_of,
    rouge_l,
    spans_recovered,
    token_recovery,
)


def test_tokens_are_compared_by_position() -> None:
    assert token_recovery([1, None, 3, 4], [1, 2, 3, 5]) == 0.5
    assert token_recovery([2, 1], [1, 2]) == 0.0
    for found, true in (([1], [1, 2]), ([], [])):
        with pytest.raises(ValueError, match="by position"):
            token_recovery(found, true)


def test_text_without_positions_is_aligned() -> None:
    assert common_subsequence("abcbdab", "bdcaba") == 4
    assert aligned_recovery([9, 1, 9, 2], [1, 2, 3, 4]) == 0.5
    assert aligned_recovery([], [1]) == 0.0


def test_rouge_l() -> None:
    assert rouge_l("the cat sat", "The cat sat") == 1.0
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l("", "a b") == 0.0
    assert rouge_l("x y", "a b") == 0.0


def test_spans_count_only_word_for_word() -> None:
    assert spans_recovered("call 12 34 now", ["12 34", "56"]) == 0.5
    assert spans_recovered("call 12  34 now", ["12 34"]) == 0.0
    with pytest.raises(ValueError, match="no spans"):
        spans_recovered("x", [])


def test_intervals_never_claim_certainty() -> None:
    whole = mean_of([1.0] * 20)
    assert (whole.value, whole.high) == (1.0, 1.0)
    assert whole.low == pytest.approx(1 - (1 - 0.025 ** (1 / 20)))
    nothing = mean_of([0.0] * 20)
    assert (nothing.low, nothing.value) == (0.0, 0.0)
    assert nothing.high == pytest.approx(0.168, abs=0.001)
    mixed = mean_of([0.0, 1.0] * 10)
    assert 0.2 < mixed.low < 0.4 < 0.6 < mixed.high < 0.8
    assert mean_of([0.5]).low == 0.0
    with pytest.raises(ValueError, match="no values"):
        mean_of([])
