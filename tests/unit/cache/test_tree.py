"""What the tree promises, one small program each; all in step with the model of blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safekv.cache.node import Node
from safekv.errors import CacheError, IsolationBroken
from safekv.types import BlockId
from support.blocks import tokens_of
from support.lockstep import SHARED, A, B, C, Lockstep, residency, small


def test_same_content_is_stored_once_and_stays_apart() -> None:
    both = Lockstep(small())
    both.put(A, "abc")
    assert both.hit(B, "abc") == 0
    assert both.put(B, "abc") == [4, 5, 6], "B's blocks are not needed"
    assert (both.tree.stored_blocks, both.tree.stats().charged_blocks) == (3, 6)
    assert both.hit(B, "abc") == 3


def test_eviction_goes_block_by_block_from_the_end_of_the_oldest_run() -> None:
    both = Lockstep(small())
    for text in ("dab", "dcb", "bc"):
        both.put(A, text)
    both.hit(A, "dab")
    assert both.evict(1, A) == [5], "the end of dcb"
    assert both.evict(1, A) == [4], "then the block before it"
    assert set(both.evict(2, A)) == {6, 7}, "then bc"
    assert both.evict(1, A) == [3], "a parent goes after its last child"


def test_a_partial_use_keeps_only_what_it_used() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(A, "dd")
    both.hit(A, "ab")
    assert set(both.evict(3, A)) == {3, 4, 6}


def test_a_use_of_the_beginning_outlives_the_continuation_that_lapses() -> None:
    both = Lockstep(small())
    for text in ("abd", "abc"):
        both.put(A, text)
    both.hit(A, "abc")
    both.put(A, "d")
    both.hit(A, "a")
    both.evict(3, A)
    both.drain(ticked=False)


def test_a_lease_locks_its_length_and_no_more() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    n = both.match(A, "abdd")
    assert both.tree.locked_blocks(A) == 2
    assert set(both.evict(9, A)) == {3, 4}
    assert n is not None
    both.release(n)
    assert set(both.evict(9, A)) == {1, 2}


def test_a_run_grows_in_place_and_its_leases_with_it() -> None:
    both = Lockstep(small())
    n = both.hold(A, "ab")
    both.insert(n, "cd")
    assert both.tree.stats().nodes == 1
    assert both.leases[n][0].blocks == [1, 2, 3, 4]


def test_splits_are_undone_when_nothing_differs_any_more() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "ab")
    both.put(A, "abdd")
    assert both.tree.stats().nodes == 3
    both.match(A, "abcd")
    both.forget(B)
    both.tree.evict(0, A)
    both.evict(2, A)
    both.compact()
    assert (both.tree.stats().nodes, both.leases[0][0].n_blocks) == (1, 4)


def test_promotion_and_demotion_move_the_charge_and_nothing_else() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "ab")
    assert both.promote(B, "abcd") == 2, "B cannot promote what it cannot see"
    assert (both.tree.charged_blocks(A), both.tree.charged_blocks(B)) == (2, 0)
    assert both.hit(C, "abcd") == 2
    assert both.demote("abcd", 1) == 1
    assert (both.tree.charged_blocks(A), both.tree.charged_blocks(B)) == (3, 1)
    assert both.hit(C, "abcd") == 1


def test_whoever_reads_a_run_that_is_demoted_keeps_it_until_it_is_done() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.promote(A, "abcd")
    both.forget(A)
    n = both.match(B, "abc")
    assert both.demote("a") == 4
    assert residency(both.tree, B) == {tokens_of(t) for t in ("a", "ab", "abc")}
    assert both.evict(9, B) == []
    assert n is not None
    both.release(n)
    assert len(both.evict(9, B)) == 3


@pytest.mark.parametrize("early", ["", "ac"])
def test_what_a_reader_keeps_after_a_demotion_is_in_the_order_of_its_reads(early: str) -> None:
    """Not in that of the nodes, which says who stored what first."""
    both = Lockstep(small())
    if early:
        both.put(C, early)
    for text in ("ab", "ac"):
        both.put(A, text)
        both.promote(A, text)
    both.match(B, "ab")
    both.match(B, "ac")
    both.demote("a")
    both.drain(ticked=False)


@pytest.mark.parametrize("read", ["", "a", "ab", "abc"])
def test_the_pool_replaces_by_reads_of_the_last_epochs_only(read: str) -> None:
    both = Lockstep(small(shared_blocks=4))
    for text in ("abc", "d", "ccc"):
        both.put(A, text)
    both.promote(A, "abc")
    both.promote(A, "d")
    both.end_epoch()
    both.hit(B, read)
    assert both.promote(A, "ccc") == 3
    assert residency(both.tree, SHARED) == {tokens_of(t) for t in ("d", "c", "cc", "ccc")}


def test_the_pool_spares_what_is_read_once_the_epoch_has_ended() -> None:
    both = Lockstep(small(shared_blocks=4))
    for text in ("abc", "d", "cc"):
        both.put(A, text)
    both.promote(A, "abc")
    both.promote(A, "d")
    both.hit(B, "a")
    both.end_epoch()
    both.hit(B, "a")
    both.end_epoch()
    assert both.promote(A, "cc") == 2
    assert both.hit(B, "abc") == 1


def test_a_shorter_read_never_makes_a_shared_run_older() -> None:
    both = Lockstep(small(shared_blocks=3))
    both.put(A, "abb")
    both.put(A, "d")
    for text in ("a", "d", "ab"):
        both.promote(A, text)
    both.end_epoch()
    for text in ("d", "ab"):
        both.hit(B, text)
    both.demote("ab", 1)
    both.hit(B, "a")
    both.drain(ticked=True)


def test_forget_removes_what_is_a_tenants_alone_and_waits_for_its_requests() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.put(B, "ab")
    both.promote(A, "a")
    n = both.match(A, "abcd")
    assert both.forget(A) is None
    assert n is not None
    both.release(n)
    assert set(both.forget(A) or ()) == {3, 4}
    assert (both.hit(B, "abcd"), both.hit(A, "abcd")) == (2, 1)


def put_apart(both: Lockstep) -> Node:
    """A tree with a branch, two holders and a shared run; returns the end of one branch."""
    both.put(A, "ab")
    both.put(A, "ac")
    root = both.tree._at.root
    return root.children[tokens_of("a")].children[tokens_of("c")]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda tree, node: tree._at.hold(node, tree._ledger.pool, 1), "below a private one"),
        (lambda tree, node: tree._at.hold(node, tree._ledger.get(B), 1), "holders grow"),
        (lambda tree, node: setattr(node, "holds", {}), "nobody holds|miscounts"),
        (lambda tree, node: setattr(node, "blocks", node.blocks * 2), "disagree"),
        (lambda tree, node: setattr(node, "key", node.key[::-1]), "wrong key|disagree"),
        (lambda tree, node: setattr(node, "blocks", node.parent.blocks), "stored twice"),
        (lambda tree, node: node.set_uses(0, [(1, 9)]), "do not fall along"),
        (lambda tree, node: setattr(tree._at, "blocks", 1), "counters disagree"),
        (lambda tree, node: setattr(tree._ledger.get(A), "charged_blocks", 1), "charged for"),
        (lambda tree, node: tree._ledger.get(A).remove(node), "does not wait"),
        (lambda tree, node: tree._at.freed.extend(node.blocks), "stored twice"),
    ],
)
def test_check_finds_every_kind_of_damage(damage: Callable[..., object], found: str) -> None:
    """`check` is what the other tests lean on, so it is itself broken on purpose here."""
    both = Lockstep(small())
    node = put_apart(both)
    damage(both.tree, node)
    with pytest.raises(IsolationBroken, match=found):
        both.tree.check()


def test_check_finds_a_lease_that_locks_nothing_or_goes_too_far() -> None:
    for field, value in (("tail", 3), ("tenant", B), ("released", True)):
        both = Lockstep(small())
        both.hold(A, "ab")
        setattr(both.leases[0][0], field, value)
        with pytest.raises(IsolationBroken, match="lease"):
            both.tree.check()


def test_a_refused_insert_names_the_tenant_and_the_remedy() -> None:
    both = Lockstep(small())
    both.open(A, 2)
    lease = both.tree.match(A, b"")
    with pytest.raises(CacheError, match="3 blocks do not fit the 2 blocks") as refused:
        both.tree.insert(lease, tokens_of("abc"), [BlockId(n) for n in range(3)])
    assert "quota" in refused.value.hint


def test_clear_leaves_nothing_behind_but_what_is_leased() -> None:
    both = Lockstep(small())
    for tenant, text in ((A, "abcd"), (B, "ab"), (C, "dd")):
        both.put(tenant, text)
    both.promote(A, "abc")
    tree = both.tree
    lease = tree.match(B, tokens_of("abcd"))
    assert lease.n_blocks == 3
    before = tree.stored_blocks
    assert len(tree.clear()) == before - 3
    assert [tree.match(tenant, tokens_of("abcd")).n_blocks for tenant in (A, B, C)] == [0, 3, 0]
    assert tree.stats().shared_blocks == 0
    tree.check()
