"""The order of eviction in which what was matched again outlives what never was."""

from __future__ import annotations

import pytest

from safekv.cache import CacheConfig
from safekv.errors import ConfigError
from support.lockstep import A, Lockstep, small


def flooded(floor: float) -> Lockstep:
    """A re-used prompt of three blocks, then prompts that nobody repeats; a quota of eight."""
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0, reused_floor=floor))
    both.put(A, "aaa")
    both.hit(A, "aaa")
    for text in ("bbb", "ccc", "ddd", "bcd", "cdb"):
        both.put(A, text)
    return both


@pytest.mark.parametrize(("floor", "kept"), [(0.0, 0), (0.25, 2), (0.5, 3), (1.0, 3)])
def test_a_flood_leaves_as_many_re_used_blocks_as_the_floor_says(floor: float, kept: int) -> None:
    both = flooded(floor)
    assert both.hit(A, "aaa") == kept
    both.drain(ticked=False)


def test_above_the_floor_the_order_is_that_of_use() -> None:
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0, reused_floor=0.25))
    both.put(A, "aaaa")
    both.hit(A, "aaaa")
    both.put(A, "bb")
    assert set(both.evict(2, A)) == {3, 4}, "four re-used blocks, two more than the floor"
    assert set(both.evict(2, A)) == {5, 6}, "now the fresh ones, although they are younger"
    assert set(both.evict(2, A)) == {1, 2}, "the floor is no reservation"


def test_a_run_that_grows_is_fresh_again_at_its_end() -> None:
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0, reused_floor=1.0))
    both.put(A, "aa")
    n = both.match(A, "aa")
    assert n is not None
    both.insert(n, "bb")
    both.release(n)
    assert set(both.evict(2, A)) == {3, 4}
    both.drain(ticked=False)


def test_a_block_that_comes_back_has_to_be_matched_again() -> None:
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0, reused_floor=1.0))
    both.put(A, "aa")
    both.hit(A, "aa")
    both.evict(2, A)
    both.put(A, "aa")
    both.put(A, "bb")
    assert set(both.evict(2, A)) == {3, 4}, "both are fresh, so the older goes first"


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_floor_that_is_no_share_is_refused(floor: float) -> None:
    with pytest.raises(ConfigError, match=r"cache\.reused_floor"):
        CacheConfig(reused_floor=floor)
