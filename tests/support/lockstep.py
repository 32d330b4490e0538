"""The prefix tree and its model of single blocks, walked in step and compared after each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeVar

import pytest

from safekv.cache import CacheConfig, Lease, PrefixTree
from safekv.errors import CacheError
from safekv.types import BlockId, TenantId, unpack_blocks
from support.blocks import BLOCK_TOKENS, SHARED, BlockModel, Holder, ModelLease, tokens_of

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")
T = TypeVar("T")


def small(**settings: object) -> CacheConfig:
    """A cache of 40 blocks, 10 of them for shared runs, with plain LRU unless told otherwise."""
    usual = {"capacity_blocks": 40, "shared_blocks": 10, "reused_floor": 0.0}
    fields = {"block_tokens": BLOCK_TOKENS, **usual, **settings}
    return CacheConfig(**fields)  # type: ignore[arg-type]


def contents(tree: PrefixTree) -> dict[bytes, tuple[int, frozenset[Holder]]]:
    """Every stored prefix, as tokens: the id of its last block, and who holds it."""
    found, path = dict[bytes, tuple[int, frozenset[Holder]]](), {}
    for node in tree.nodes():
        before = path.get(node.parent, b"")
        path[node] = before + node.tokens()
        for n, block in enumerate(unpack_blocks(node.blocks)):
            end = len(before) + (n + 1) * len(node.key)
            found[path[node][:end]] = block, frozenset(node.holders())
    return found


def residency(tree: PrefixTree, holder: Holder) -> set[bytes]:
    """Every prefix, as tokens, that lies in the virtual cache of `holder`."""
    return {tokens for tokens, (_, holders) in contents(tree).items() if holder in holders}


class Lockstep:
    """Does everything to a tree and to a model, and fails where they differ.

    An operation that the tree refuses must be refused by the model too: it returns `None`.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.tree = PrefixTree(config)
        self.model = BlockModel(config)
        self.ids = count(1)
        self.leases: list[tuple[Lease, ModelLease]] = []

    # -- operations ------------------------------------------------------------------------

    def open(self, tenant: TenantId, quota: int | None = None) -> None:
        self._both(
            lambda: self.tree.open(tenant, quota),
            lambda: self.model.open(
                tenant, self.tree.config.quota_blocks if quota is None else quota
            ),
        )

    def match(self, tenant: TenantId, text: str, max_blocks: int | None = None) -> int | None:
        """Match `text` and keep the lease; returns its place in `leases`."""
        limit = len(text) if max_blocks is None else max_blocks
        pair = self._both(
            lambda: self.tree.match(tenant, tokens_of(text), max_blocks),
            lambda: self.model.match(tenant, text[:limit]),
        )
        if pair is not None:
            lease, expected = pair
            assert (lease.n_blocks, lease.own_blocks) == (len(expected.text), expected.own)
            self.leases.append(pair)
        self.agree()
        return pair and len(self.leases) - 1

    def hit(self, tenant: TenantId, text: str) -> int | None:
        """How much of `text` is found, without keeping the lease."""
        if (n := self.match(tenant, text)) is None:
            return None
        blocks = self.leases[n][0].n_blocks
        self.release(n)
        return blocks

    def insert(self, n: int, text: str) -> list[BlockId] | None:
        """Store what the lease does not cover of its text followed by `text`."""
        lease, expected = self.leases[n]
        ids = [next(self.ids) for _ in text]
        whole = expected.text + text
        pair = self._both(
            lambda: self.tree.insert(lease, tokens_of(whole), [BlockId(i) for i in ids]),
            lambda: self.model.insert(expected, whole, ids),
        )
        if pair is not None:
            assert pair[0] == pair[1], "duplicates differ"
        self.agree()
        return pair and pair[0]

    def put(self, tenant: TenantId, text: str) -> list[BlockId] | None:
        """A whole request: match, insert the rest, release."""
        n = self.match(tenant, text)
        assert n is not None, "the tenant has no cache"
        duplicates = self.insert(n, text[self.leases[n][0].n_blocks :])
        self.release(n)
        return duplicates

    def hold(self, tenant: TenantId, text: str) -> int:
        """A request that runs on: match and insert the rest, and keep the lease."""
        n = self.match(tenant, text)
        assert n is not None, "the tenant has no cache"
        self.insert(n, text[self.leases[n][0].n_blocks :])
        return n

    def adopt(self, n: int) -> None:
        lease, expected = self.leases[n]
        self._both(lambda: self.tree.adopt(lease), lambda: self.model.adopt(expected))
        self.agree()

    def release(self, n: int) -> None:
        lease, expected = self.leases.pop(n)
        self._both(lambda: self.tree.release(lease), lambda: self.model.leases.remove(expected))
        self.tree.release(lease)
        self.agree()

    def promote(self, tenant: TenantId, text: str, n_blocks: int | None = None) -> int | None:
        n = len(text) if n_blocks is None else n_blocks
        return self._same(
            lambda: self.tree.promote(tenant, tokens_of(text), n),
            lambda: self.model.promote(tenant, text, n),
        )

    def demote(self, text: str, keep_blocks: int = 0) -> int | None:
        return self._same(
            lambda: self.tree.demote(tokens_of(text), keep_blocks),
            lambda: self.model.demote(text, keep_blocks),
        )

    def evict(self, n_blocks: int, tenant: TenantId | None = None) -> list[BlockId]:
        pair = self._both(
            lambda: self.tree.evict(n_blocks, tenant), lambda: self.model.evict(n_blocks, tenant)
        )
        freed = pair[0] if pair else []
        self.agree(freed)
        return freed

    def forget(self, tenant: TenantId) -> list[BlockId] | None:
        pair = self._both(lambda: self.tree.forget(tenant), lambda: self.model.forget(tenant))
        self.agree(pair[0] if pair else [])
        return pair and pair[0]

    def end_epoch(self) -> None:
        self._both(self.tree.end_epoch, self.model.end_epoch)
        self.agree()

    def compact(self, n_nodes: int | None = None) -> None:
        """Merge nodes: nothing that the model knows of may change."""
        left = self.tree.compact(n_nodes)
        assert left == 0 or n_nodes is not None
        self.agree()

    def drain(self, *, ticked: bool) -> None:
        """Take everything away block by block, in the order of eviction, which shows all ages.

        First what tenants hold alone, then the shared pool, then what it gave back. `ticked`
        says whether the epoch ends before the pool is drained.
        """
        while self.leases:
            self.release(0)
        if ticked:
            self.end_epoch()
        tenants = list(self.model.quota)
        for tenant in [*tenants, SHARED, *tenants]:
            if isinstance(tenant, str):
                while self.model.charged(tenant):
                    self.evict(1, tenant)
            elif tenants:
                self._drain_pool(tenants[0])

    def _drain_pool(self, tenant: TenantId) -> None:
        for n in range(self.tree.config.pool_blocks):
            fresh = chr(ord("i") + n)
            self.put(tenant, fresh)
            self.promote(tenant, fresh)

    # -- comparison ------------------------------------------------------------------------

    def agree(self, freed: list[BlockId] | None = None) -> None:
        """Fail unless the tree is sound and holds what the model holds."""
        self.tree.check()
        freed = [*(freed or ()), *self.tree.take_freed()]
        assert sorted(freed) == sorted(self.model.freed), "other blocks became free"
        self.model.freed.clear()
        expected = {
            tokens_of(p): (i, frozenset(self.model.holders(p))) for p, i in self.model.block.items()
        }
        assert contents(self.tree) == expected
        for lease, leased in self.leases:
            covered = [self.model.block[leased.text[: n + 1]] for n in range(len(leased.text))]
            assert (lease.blocks, lease.n_blocks) == (covered, len(covered))
        for tenant in self.model.quota:
            self._agree_on(tenant)
        self._agree_on_stats()

    def _agree_on(self, tenant: TenantId) -> None:
        tree, model = self.tree, self.model
        charged, ceiling = len(model.charged(tenant)), model.ceiling(tenant)
        assert tree.charged_blocks(tenant) == charged
        assert tree.locked_blocks(tenant) == len(model.locked(tenant))
        assert tree.quota_blocks(tenant) == model.quota_of(tenant)
        assert (tree.ceiling_blocks(tenant), tree.room_blocks(tenant)) == (
            ceiling,
            ceiling - charged,
        )

    def _agree_on_stats(self) -> None:
        stats, model = self.tree.stats(), self.model
        over = {t: len(model.charged(t)) - model.quota_of(t) for t in model.quota}
        assert stats.nodes == sum(1 for _ in self.tree.nodes())
        assert stats.blocks == self.tree.stored_blocks == len(model.block)
        assert stats.shared_blocks == len(model.shared()) <= stats.shared_budget_blocks
        assert stats.charged_blocks - stats.shared_blocks == sum(
            len(model.charged(t)) for t in model.quota
        )
        assert stats.over_quota_blocks == sum(max(0, n) for n in over.values())
        assert stats.quota_blocks == sum(model.quota_of(t) for t in model.quota)
        assert (stats.tenants, stats.overcommit) == (len(over), model.config.overcommit)

    def _same(self, real: Callable[[], T], expected: Callable[[], T]) -> T | None:
        pair = self._both(real, expected)
        if pair is not None:
            assert pair[0] == pair[1]
        self.agree()
        return pair and pair[0]

    def _both(
        self, real: Callable[[], T], expected: Callable[[], object]
    ) -> tuple[T, object] | None:
        try:
            second = expected()
        except CacheError:
            with pytest.raises(CacheError):
                real()
            return None
        return real(), second


__all__ = ["SHARED", "A", "B", "C", "Lockstep", "contents", "residency", "small"]
