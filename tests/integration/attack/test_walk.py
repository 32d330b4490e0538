"""What candidates would leave is computed once for all caches of a prompt, and costs are told."""

from __future__ import annotations

import pytest
import torch

from safekv.attack.capture import Captured, capture
from safekv.attack.collision import Rows, SearchPlan, search
from safekv.attack.walk import Remembered, Walk
from support.tiny_models import VOCABULARY, text, tiny

TOKENS = text(24)
PLAN = SearchPlan(budget=VOCABULARY, patience=1)


def depths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates each forward pass has from now on."""
    seen: list[int] = []
    plain = Walk._computed

    def counted(self: Walk, candidates: torch.Tensor, position: int) -> object:
        seen.append(len(candidates))
        return plain(self, candidates, position)

    monkeypatch.setattr(Walk, "_computed", counted)
    return seen


def test_the_second_cache_of_a_prompt_computes_nothing_and_finds_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public = tiny("llama")
    captured = capture(public, TOKENS)
    plain = search(public, Rows(captured, 1), 1, TOKENS[:4], 16, PLAN)
    public.remembered = Remembered()
    seen = depths(monkeypatch)
    first = search(public, Rows(captured, 1), 1, TOKENS[:4], 16, PLAN)
    assert sum(seen) == first.tried
    seen.clear()
    rounded = Captured(
        {1: captured.keys[1].bfloat16().float()}, {1: captured.values[1].bfloat16().float()}
    )
    again = search(public, Rows(rounded, 1), 1, TOKENS[:4], 16, PLAN)
    assert (sum(seen), again.tokens, again.tried) == (0, plain.tokens, plain.tried)
    assert list(first.tokens) == list(plain.tokens) == TOKENS[4:16]


def test_states_are_those_that_would_be_computed_in_whatever_order_they_are_asked_for() -> None:
    public = tiny("llama")
    walk = Walk(public, 1, TOKENS[:5])
    wanted = torch.tensor([7, 3, 9, 3])
    keys, values = walk.states(wanted, 5)
    public.remembered = Remembered()
    walk.states(torch.tensor([9, 1]), 5)
    assert walk.spared_s == 0.0
    found = walk.states(wanted, 5)
    torch.testing.assert_close(found[0], keys)
    torch.testing.assert_close(found[1], values)
    # Behind another token they are others.
    walk.append(2)
    other, _ = walk.states(wanted, 6)
    assert (other - keys).abs().max() > 0.01


def test_what_was_spared_counts_as_time() -> None:
    public = tiny("llama")
    public.remembered = Remembered()
    captured = capture(public, TOKENS)
    search(public, Rows(captured, 1), 1, TOKENS[:4], 6, PLAN)
    for known in public.remembered._known.values():
        known.seconds = 100.0
    again = search(public, Rows(captured, 1), 1, TOKENS[:4], 6, PLAN)
    assert 199 < again.wall_s < 210


def test_the_store_is_bounded_and_the_prefix_unused_longest_goes() -> None:
    public = tiny("llama")
    walk = Walk(public, 1, TOKENS[:3])
    ids = torch.arange(8)
    size = sum(one.nbytes for one in walk.states(ids, 3))
    store = Remembered(limit_bytes=2 * size)
    public.remembered = store
    for token in (1, 2, 3):
        walk.states(ids, len(walk._prefix))
        walk.append(token)
    prefixes = [prefix for _, prefix in store._known]
    assert [len(one) for one in prefixes] == [4, 5]
    assert store._held == 2 * size
