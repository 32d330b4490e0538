"""Path compression: nodes that no longer differ become one, and nothing else changes."""

from __future__ import annotations

from safekv.cache.structure import mergeable_child
from support.lockstep import A, B, C, Lockstep, small


def tight(both: Lockstep) -> bool:
    return all(mergeable_child(node) is None for node in both.tree.nodes())


def test_compaction_goes_on_from_where_it_stopped() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    for tenant, text in ((B, "abc"), (C, "ab")):
        both.put(tenant, text)
    n = both.match(A, "abc")
    assert both.tree.stats().nodes == 3
    for tenant in (B, C):
        both.forget(tenant)
    while both.tree.compact(1):
        both.agree()
    assert (both.tree.stats().nodes, tight(both)) == (1, True)
    assert n is not None
    assert len(both.leases[n][0].blocks) == 3


def test_a_split_does_not_hide_a_neighbour_that_waits_to_be_merged() -> None:
    both = Lockstep(small())
    both.put(A, "abcd")
    both.promote(A, "abcd")
    for text in ("ab", "abcd"):
        n = both.match(B, text)
        assert n is not None
        both.adopt(n)
        if text == "ab":
            both.compact()
    both.demote("abcd", 3)
    both.compact()
    assert tight(both)


def test_runs_of_one_promotion_become_one_node() -> None:
    both = Lockstep(small())
    both.put(A, "abc")
    both.put(A, "add")
    assert both.promote(A, "abc") == 3
    both.evict(2, A)
    both.compact()
    assert both.tree.stats().nodes == 1
