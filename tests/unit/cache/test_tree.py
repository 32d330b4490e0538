"""What the tree promises beyond the model test: order of eviction, splits, and refusals."""

from __future__ import annotations

import pytest

from safekv.cache import PrefixTree
from safekv.cache.node import Hold, Node
from safekv.errors import CacheError, IsolationBroken
from safekv.types import BlockId, Scope, TenantId, pack_tokens

A, B = TenantId("a"), TenantId("b")


def put(tree: PrefixTree, tenant: TenantId, text: str, first_id: int) -> list[int]:
    """Store one block per letter, with ids from `first_id`."""
    tokens = pack_tokens(ord(letter) for letter in text)
    lease = tree.match(tenant, tokens, len(text))
    new = [BlockId(first_id + n) for n in range(len(text) - len(lease.blocks))]
    stored = tree.insert(lease, tokens, [*lease.blocks, *new])
    tree.release(lease)
    return list(stored)


def hit(tree: PrefixTree, tenant: TenantId, text: str) -> int:
    lease = tree.match(tenant, pack_tokens(ord(letter) for letter in text), len(text))
    tree.release(lease)
    return len(lease.blocks)


def test_same_content_is_stored_once_and_stays_apart() -> None:
    tree = PrefixTree(1)
    assert put(tree, A, "abc", 10) == [10, 11, 12]
    assert hit(tree, B, "abc") == 0
    assert put(tree, B, "abc", 20) == [10, 11, 12]
    assert tree.stored_blocks == 3
    assert hit(tree, B, "abc") == 3


def test_eviction_takes_leaf_ends_in_order_of_last_use() -> None:
    tree = PrefixTree(1)
    put(tree, A, "xab", 10)
    put(tree, A, "xcd", 20)
    put(tree, A, "yz", 30)
    hit(tree, A, "xab")
    assert tree.evict(1) == [21], "the end of xcd, the oldest leaf"
    assert tree.evict(3) == [20, 31, 30], "then the rest of it, then yz"
    assert tree.evict(9) == [12, 11, 10], "a parent goes after its last child"
    assert tree.evict(1) == []
    tree.check()


def test_a_lease_protects_its_whole_path_until_released() -> None:
    tree = PrefixTree(1)
    put(tree, A, "abcd", 10)
    lease = tree.match(A, pack_tokens(map(ord, "abx")), 3)
    put(tree, A, "abxy", 20)
    assert tree.evictable_blocks == 4
    assert sorted(tree.evict(99)) == [12, 13, 20, 21], "the matched part alone is held"
    tree.release(lease)
    assert sorted(tree.evict(99)) == [10, 11]


def test_promotion_stops_at_what_the_tenant_cannot_see() -> None:
    tree = PrefixTree(1)
    put(tree, A, "abc", 10)
    assert tree.promote(B, pack_tokens(map(ord, "abc")), 3) == 0
    assert tree.promote(A, pack_tokens(map(ord, "abc")), 2) == 2
    assert (hit(tree, B, "abc"), hit(tree, A, "abc")) == (2, 3)
    assert tree.stats().shared_blocks == 2


def test_insert_refuses_what_does_not_fit() -> None:
    tree = PrefixTree(2)
    lease = tree.match(A, b"", 0)
    with pytest.raises(CacheError, match="2 blocks do not match 2 tokens"):
        tree.insert(lease, pack_tokens([1, 2]), [BlockId(1), BlockId(2)])
    tree.release(lease)
    with pytest.raises(CacheError, match="released"):
        tree.insert(lease, b"", [])
    assert tree.stored_blocks == 0


def test_what_one_tenant_can_keep_does_not_depend_on_what_others_sent() -> None:
    """B's copy of A's text costs B as much as any other, and A's use does not keep it alive."""
    survivors = []
    for text_of_a in ("abcd", "wxyz"):
        tree = PrefixTree(1)
        put(tree, A, text_of_a, 100)
        put(tree, B, "abcd", 200)
        kept = []
        for n, junk in enumerate("12345678"):
            put(tree, A, text_of_a, 300 + 10 * n)
            put(tree, B, junk, 400 + 10 * n)
            tree.evict(max(0, tree.charged_blocks - 10))
            kept.append((hit(tree, A, text_of_a), tree.charged_blocks))
        kept.append((hit(tree, B, "abcd"), hit(tree, B, "8")))
        survivors.append(kept)
        tree.check()
    assert survivors[0] == survivors[1]
    assert survivors[0][-1] == (0, 1), "the test must press hard enough for B's text to go"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            lambda node: node.holds.update({Scope.SHARED: Hold(0)}),
            "shared node lies below|miscounts",
        ),
        (lambda node: node.holds.update({B: Hold(0)}), "holders grow|miscounts"),
        (lambda node: node.holds.clear(), "nobody holds|miscounts"),
        (lambda node: node.blocks.append(BlockId(1)), "disagree"),
        (lambda node: setattr(node.holds[A], "queued", False), "not queued"),
        (lambda node: setattr(node.holds[A], "children", 1), "miscounts"),
        (lambda node: setattr(node.holds[A], "locks", 1), "unlocked one above"),
        (lambda node: node.blocks.__setitem__(0, BlockId(10)), "stored twice"),
    ],
)
def test_check_finds_every_kind_of_damage(damage: object, found: str) -> None:
    """`check` is what the other tests lean on, so it is itself broken on purpose here."""
    tree = PrefixTree(1)
    put(tree, A, "ab", 10)
    put(tree, A, "ac", 20)
    node: Node = tree._root.children[pack_tokens([ord("a")])].children[pack_tokens([ord("c")])]
    tree.check()
    damage(node)  # type: ignore[operator]
    with pytest.raises(IsolationBroken, match=found):
        tree.check()
