"""One tier below the device: what each tenant keeps there, within a quota of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from safekv.cache.config import CacheConfig
from safekv.cache.lease import Lease
from safekv.cache.tree import PrefixTree
from safekv.errors import IsolationBroken
from safekv.types import TOKEN_BYTES, BlockId, TenantId, unpack_blocks

Listener = Callable[[TenantId, bytes, list[BlockId]], None]


@dataclass(frozen=True, slots=True)
class Gap:
    """Consecutive blocks of a path that have a place, `blocks`, and no content there yet.

    The first one is block number `start` of the path; `parent` is the block before it.
    """

    start: int
    blocks: Sequence[BlockId] = field(repr=False)
    parent: BlockId | None

    @property
    def end(self) -> int:
        return self.start + len(self.blocks)


class Shelf:
    """The virtual caches of one tier: for each tenant a prefix tree that nobody else is in.

    Quotas always fit the capacity, so to store what two tenants have only once would save
    nothing, and would have to be hidden from both. A tenant that finds no quota left has no
    cache here. Ids of blocks are 0 to `capacity_blocks` - 1.

    `lost` are blocks that have a place and no content: on their way, or damaged. A path ends
    in front of the first of them until it is written again.
    """

    def __init__(
        self, block_tokens: int, capacity_blocks: int, quota_blocks: int | None = None
    ) -> None:
        self.capacity_blocks = capacity_blocks
        self.lost: set[BlockId] = set()
        self.on_lapse: Listener | None = None
        self.on_free: Callable[[TenantId, list[BlockId]], None] | None = None
        self._width = block_tokens * TOKEN_BYTES
        # Plain LRU: to lapse above counts as a use here, so "used again" would mean nothing.
        self._config = CacheConfig(
            block_tokens=block_tokens,
            capacity_blocks=max(2, capacity_blocks),
            shared_blocks=0,
            reused_floor=0.0,
        )
        self._fixed_blocks = quota_blocks
        self._trees: dict[TenantId, PrefixTree] = {}
        self._used_ids = 0
        self._free: list[BlockId] = []

    @property
    def quota_blocks(self) -> int:
        """What each tenant may hold here."""
        if self._fixed_blocks is not None:
            return self._fixed_blocks
        return self.capacity_blocks // max(1, len(self._trees))

    @property
    def stored_blocks(self) -> int:
        """How many blocks have a place here. O(1)."""
        return self._used_ids - len(self._free)

    def open(self, tenant: TenantId) -> None:
        """Give `tenant` a cache here, if there is a quota left. Equal shares become smaller, and
        those over theirs lose blocks at once, so that every quota can be used."""
        if tenant in self._trees or not self.capacity_blocks:
            return
        fixed = self._fixed_blocks or 0
        if fixed * (len(self._trees) + 1) > self.capacity_blocks:
            return
        tree = self._trees[tenant] = PrefixTree(self._config)
        if self.on_lapse is not None:
            tree.on_lapse(self.on_lapse)
        for each in self._trees:
            self._make_room(each, 0)

    def match(self, tenant: TenantId, tokens: bytes, max_blocks: int | None = None) -> Lease | None:
        """What `tenant` has here of `tokens`, locked until `release`; `None` without a cache."""
        tree = self._trees.get(tenant)
        return tree.match(tenant, tokens, max_blocks) if tree is not None else None

    def release(self, lease: Lease) -> None:
        """Unlock what `lease` covers."""
        self._trees[lease.tenant].release(lease)

    def whole_blocks(self, lease: Lease) -> int:
        """How many leading blocks of `lease` have their content. O(blocks)."""
        if not self.lost:
            return lease.n_blocks
        return next((n for n, b in enumerate(lease.blocks) if b in self.lost), lease.n_blocks)

    def grow(self, lease: Lease, tokens: bytes) -> list[Gap]:
        """Find places for the blocks of `tokens`, which `lease` covers then as far as they fit.

        Returns what the caller must fill, lost blocks included; they count as filled from now
        on. The tenant's oldest blocks make room.
        """
        lost = [n for n, block in enumerate(lease.blocks) if block in self.lost]
        wanted = len(tokens) // self._width - lease.n_blocks
        start, new = lease.n_blocks, self._make_room(lease.tenant, wanted)
        if new:
            ids = self._take(new)
            tree = self._trees[lease.tenant]
            tree.insert(lease, tokens[: (start + new) * self._width], ids)
        gaps = list(_gaps([*lost, *range(start, start + new)], lease.blocks))
        self.lost.difference_update(block for gap in gaps for block in gap.blocks)
        return gaps

    def _make_room(self, tenant: TenantId, wanted: int) -> int:
        """Let blocks of `tenant` lapse for `wanted` new ones; how many of these may come."""
        tree, quota = self._trees[tenant], self.quota_blocks
        fit = max(0, min(wanted, quota - tree.locked_blocks(tenant)))
        over = tree.charged_blocks(tenant) + fit - quota
        if over > 0:
            self._take_back(tenant, tree.evict(over, tenant))
        # A lease may keep a share that became smaller from being free yet.
        return min(fit, self.capacity_blocks - self.stored_blocks)

    def _take(self, n_blocks: int) -> list[BlockId]:
        """Ids that came back, and then some that were never used."""
        kept = max(0, len(self._free) - n_blocks)
        taken, self._free = self._free[kept:], self._free[:kept]
        fresh = range(self._used_ids, self._used_ids + n_blocks - len(taken))
        self._used_ids = fresh.stop
        return [*taken, *map(BlockId, fresh)]

    def _take_back(self, tenant: TenantId, blocks: list[BlockId]) -> None:
        self._free += blocks
        self.lost.difference_update(blocks)
        if blocks and self.on_free is not None:
            self.on_free(tenant, blocks)

    def leases(self, tenant: TenantId) -> int:
        """How many leases of `tenant` there are."""
        tree = self._trees.get(tenant)
        return tree.stats().leases if tree is not None else 0

    def forget(self, tenant: TenantId) -> None:
        """Remove all that `tenant` has here. Raises `CacheError` while it has leases."""
        tree = self._trees.get(tenant)
        if tree is not None:
            self._take_back(tenant, tree.forget(tenant))
            del self._trees[tenant]

    def clear(self) -> None:
        """Forget what no lease needs, of all tenants. The caller has silenced `on_lapse`."""
        for tenant, tree in self._trees.items():
            self._take_back(tenant, tree.clear())

    def contents(self, tenant: TenantId) -> PrefixTree | None:
        """The tree of `tenant`, to read only."""
        return self._trees.get(tenant)

    def check(self) -> None:
        """Raise `IsolationBroken` unless every block is in one place. O(blocks)."""
        seen = set(self._free)
        stored = 0
        for tenant, tree in self._trees.items():
            tree.check()
            for node in tree.nodes():
                if set(node.holders()) != {tenant}:
                    raise IsolationBroken("tiers: a tenant's cache holds another tenant's run")
            stored += tree.stored_blocks
            seen.update(block for node in tree.nodes() for block in unpack_blocks(node.blocks))
            over = tree.charged_blocks(tenant) > self.quota_blocks
            if over and not tree.stats().leases:
                raise IsolationBroken("tiers: a tenant holds more than its quota")
        if len(seen) != self._used_ids or stored + len(self._free) != len(seen):
            raise IsolationBroken("tiers: a block is in no place, or in two")
        if not self.lost.isdisjoint(self._free):
            raise IsolationBroken("tiers: a free block is lost")


def _gaps(places: Sequence[int], blocks: Sequence[BlockId]) -> Iterator[Gap]:
    """`places` of a path with `blocks`, in ascending order, as runs of neighbours."""
    first = 0
    for n in range(1, len(places) + 1):
        if n == len(places) or places[n] != places[n - 1] + 1:
            start, end = places[first], places[n - 1] + 1
            yield Gap(start, blocks[start:end], blocks[start - 1] if start else None)
            first = n
