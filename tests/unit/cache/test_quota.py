"""How tenants divide the budget."""

from __future__ import annotations

import pytest

from safekv.cache import CacheConfig
from safekv.errors import CacheError, ConfigError
from support.lockstep import A, B, C, Lockstep, small


def test_what_explicit_quotas_leave_is_shared_equally() -> None:
    both = Lockstep(small(capacity_blocks=20, shared_blocks=5))
    both.open(A, 6)
    both.open(B)
    assert [both.tree.quota_blocks(t) for t in (A, B)] == [6, 9]
    both.open(C)
    assert [both.tree.quota_blocks(t) for t in (A, B, C)] == [6, 4, 4]
    both.forget(A)
    assert [both.tree.quota_blocks(t) for t in (B, C)] == [7, 7]
    both.agree()


def test_a_tenant_beyond_the_last_block_is_refused_and_the_others_keep_theirs() -> None:
    both = Lockstep(small(capacity_blocks=3, shared_blocks=1))
    both.put(A, "a")
    both.put(B, "b")
    with pytest.raises(CacheError, match="no quota left for tenant c"):
        both.tree.match(C, b"")
    assert [both.tree.quota_blocks(t) for t in (A, B)] == [1, 1]
    both.agree()


def test_whoever_is_over_a_smaller_share_loses_its_oldest_at_its_own_next_request() -> None:
    both = Lockstep(small(capacity_blocks=8, shared_blocks=0))
    both.put(A, "abcd")
    both.put(A, "bbbb")
    both.open(B)
    assert (both.tree.room_blocks(A), both.tree.stats().over_quota_blocks) == (-4, 4)
    both.put(A, "c")
    assert (both.tree.room_blocks(A), both.hit(A, "abcd"), both.hit(A, "bbbb")) == (0, 0, 3)


def test_memory_is_taken_from_those_furthest_over_their_quota_first() -> None:
    both = Lockstep(small(capacity_blocks=12, shared_blocks=0, overcommit=3.0))
    both.open(A, 2)
    both.open(B, 4)
    both.put(A, "aaaa")
    both.put(B, "bbbbb")
    assert len(both.evict(2)) == 2
    assert (both.tree.charged_blocks(A), both.tree.charged_blocks(B)) == (2, 5)
    both.evict(1)
    assert (both.tree.charged_blocks(A), both.tree.charged_blocks(B)) == (2, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_tokens": 0},
        {"capacity_blocks": 1},
        {"shared_blocks": -1},
        {"shared_blocks": 40},
        {"quota_blocks": 0},
        {"quota_blocks": 31},
        {"overcommit": 0.5},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        small(**wrong)
    assert CacheConfig().pool_blocks == 256
