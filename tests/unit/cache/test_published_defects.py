"""The defects of the published SafeKV code that concern the tree, and every kind of bad input.

Not the tree's: D4, D5 and D9 (who counts as a contributor, budgets, the monitor) are the
warden's and the safeguard's, D6 (which text is classified) the detector's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safekv.cache import PrefixTree
from safekv.errors import CacheError
from safekv.types import BlockId, Scope, TenantId
from support.blocks import tokens_of
from support.lockstep import A, B, C, Lockstep, contents, small


def test_d1_nobody_overwrites_a_neighbour_with_the_same_first_block() -> None:
    """D1: every tenant finds all it stored, and what is counted is what can be reached."""
    both = Lockstep(small())
    texts = {A: "abcdabcd", B: "abdd", C: "acbb"}
    for tenant, text in texts.items():
        both.put(tenant, text)
    assert [both.hit(tenant, text) for tenant, text in texts.items()] == [8, 4, 4]
    assert both.tree.stored_blocks == len(contents(both.tree)) == 13


def test_d2_a_block_that_differs_in_one_token_is_a_miss() -> None:
    """D2: tokens are compared exactly, also the last one of the last block of a long run."""
    both = Lockstep(small())
    both.put(A, "a" * 12)
    for place in range(12):
        for other in "bcd":
            assert both.hit(A, "a" * place + other + "a" * (11 - place)) == place


@pytest.mark.parametrize("nobody", [None, "", 0, Scope.SHARED, b"a"])
def test_d3_without_a_tenant_nothing_is_seen_or_done(nobody: object) -> None:
    """D3: a missing identity is refused, never taken for everyone."""
    both = Lockstep(small())
    both.put(A, "abc")
    tree, tenant = both.tree, nobody
    refused: list[Callable[[], object]] = [
        lambda: tree.match(tenant, tokens_of("abc")),  # type: ignore[arg-type]
        lambda: tree.open(tenant),  # type: ignore[arg-type]
        lambda: tree.forget(tenant),  # type: ignore[arg-type]
        lambda: tree.room_blocks(tenant),  # type: ignore[arg-type]
    ]
    for call in refused:
        with pytest.raises(CacheError):
            call()
    assert tree.promote(tenant, tokens_of("abc"), 3) == 0  # type: ignore[arg-type]
    both.agree()


@pytest.mark.parametrize("name", ["shared", "SHARED", "None", "a ", "A", "*"])
def test_d3_no_name_means_everyone(name: str) -> None:
    both = Lockstep(small())
    both.put(A, "abc")
    assert both.hit(TenantId(name), "abc") == 0


def test_d7_what_is_stored_below_a_shared_run_is_private() -> None:
    """D7: outputs do not inherit the label of their prompt, not even in place."""
    both = Lockstep(small())
    n = both.hold(A, "ab")
    both.promote(A, "ab")
    both.insert(n, "cd")
    assert (both.hit(B, "abcd"), both.hit(A, "abcd")) == (2, 4)


def test_d8_a_promotion_and_a_split_never_leave_half_a_label() -> None:
    """D8: a split between what is classified and what is promoted moves no boundary of it.

    The published tree raced its classifier's threads; ours is called by one owner at a time,
    so what is left to test is the interleaving of whole calls.
    """
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "abdd")
    both.put(C, "ac")
    assert both.promote(A, "abcd", 3) == 3
    assert [both.hit(tenant, "abcd") for tenant in (A, B, C)] == [4, 3, 3]


# -- bad input -----------------------------------------------------------------------------


def full() -> Lockstep:
    both = Lockstep(small(capacity_blocks=8, shared_blocks=2))
    both.open(A, 4)
    both.put(A, "abc")
    both.promote(A, "a")
    return both


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 15])
def test_tokens_that_are_not_whole_int32_values_are_refused(size: int) -> None:
    both = full()
    with pytest.raises(CacheError, match="not whole tokens"):
        both.tree.match(A, tokens_of("abcd")[:size])
    both.agree()


def test_an_empty_prompt_and_less_than_a_block_match_nothing() -> None:
    both = full()
    lease = both.tree.match(A, b"")
    assert (lease.n_blocks, lease.own_blocks, lease.blocks) == (0, 0, [])
    assert both.tree.insert(lease, b"", []) == []
    both.tree.release(lease)
    lease = both.tree.match(A, tokens_of("a")[:4])
    assert lease.n_blocks == 0
    both.tree.release(lease)
    both.agree()
    assert both.tree.promote(A, b"", 3) == both.tree.demote(b"") == 0


def test_max_blocks_limits_the_match_and_may_not_be_negative() -> None:
    both = full()
    assert both.match(A, "abc", 0) is not None
    assert both.match(A, "abc", 2) is not None
    with pytest.raises(CacheError, match="max_blocks is -1"):
        both.tree.match(A, tokens_of("abc"), -1)
    both.agree()


def test_a_released_lease_stores_nothing_and_releasing_it_again_does_nothing() -> None:
    both = full()
    lease = both.tree.match(A, tokens_of("abc"))
    both.tree.release(lease)
    both.tree.release(lease)
    both.tree.adopt(lease)
    with pytest.raises(CacheError, match="released"):
        both.tree.insert(lease, tokens_of("abcd"), [BlockId(99)])
    assert both.tree.locked_blocks(A) == 0
    assert contents(both.tree).keys() == {tokens_of(t) for t in ("a", "ab", "abc")}
    both.tree.check()


def test_a_lease_used_twice_goes_on_where_it_ended() -> None:
    both = Lockstep(small())
    n = both.match(A, "")
    assert n is not None
    assert both.insert(n, "ab") == []
    assert both.insert(n, "cd") == []
    assert both.hit(A, "abcd") == 4


@pytest.mark.parametrize(
    ("text", "ids"),
    [("abcd", []), ("abcd", [1, 2]), ("ab", []), ("abc", [7]), ("abdd", [7]), ("dbcd", [7])],
)
def test_blocks_that_do_not_fit_the_tokens_or_the_lease_are_refused(
    text: str, ids: list[int]
) -> None:
    both = full()
    both.match(A, "abc")
    with pytest.raises(CacheError):
        both.tree.insert(both.leases[0][0], tokens_of(text), [BlockId(i) for i in ids])
    both.agree()


@pytest.mark.parametrize("block", [-1, 2**32, "1", None, 1.5])
def test_a_block_id_that_is_not_a_uint32_is_refused(block: object) -> None:
    both = full()
    both.match(A, "abc")
    with pytest.raises(CacheError, match="block id"):
        both.tree.insert(both.leases[0][0], tokens_of("abcd"), [block])  # type: ignore[list-item]
    both.agree()


def test_a_quota_of_nothing_is_refused_and_changes_nothing() -> None:
    both = full()
    for quota in (0, -1):
        with pytest.raises(CacheError):
            both.tree.open(A, quota)
    assert both.tree.quota_blocks(A) == 4
    both.agree()


def test_a_request_larger_than_the_quota_is_refused_and_loses_nothing() -> None:
    tree = PrefixTree(small(capacity_blocks=8, shared_blocks=0))
    tree.open(A, 4)
    tree.insert(lease := tree.match(A, b""), tokens_of("abc"), [BlockId(n) for n in range(3)])
    tree.release(lease)
    lease, before = tree.match(A, b""), contents(tree)
    with pytest.raises(CacheError, match="do not fit"):
        tree.insert(lease, tokens_of("ddddd"), [BlockId(n) for n in range(10, 15)])
    assert contents(tree) == before
    assert tree.take_freed() == []
    tree.check()


@pytest.mark.parametrize("keep", [-1, -5])
def test_demote_with_a_negative_length_is_an_error_with_a_name_or_nothing(keep: int) -> None:
    both = full()
    try:
        both.tree.demote(tokens_of("abc"), keep)
    except CacheError:
        both.agree()
    both.tree.check()
