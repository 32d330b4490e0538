"""Host memory and disk below the device's tree: which blocks move where, and for whom.

Where a tenant finds its blocks is decided by its own history and quotas alone, tier by tier: what
lapses from its cache on the device is offered to its cache in host memory, and what lapses
there to its cache on disk. Shared runs live on the device only.

Nothing here copies a byte: the tree says what moves, and an adapter performs it, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from safekv.cache.config import TiersConfig
from safekv.cache.lease import Lease
from safekv.cache.shelf import Gap, Shelf
from safekv.cache.tree import PrefixTree
from safekv.errors import CacheError
from safekv.types import TOKEN_BYTES, BlockId, TenantId, Tier


@dataclass(frozen=True, slots=True)
class Move:
    """The content of `source_blocks` goes to `gap`, in `target`. `tokens` end where `gap` does."""

    tenant: TenantId
    source: Tier
    target: Tier
    source_blocks: Sequence[BlockId] = field(repr=False)
    gap: Gap
    tokens: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Discard:
    """Nobody needs `blocks` on disk any more."""

    tenant: TenantId
    blocks: Sequence[BlockId] = field(repr=False)


Step = Move | Discard


@dataclass(frozen=True, slots=True)
class Below:
    """What host memory has of a prompt behind what the device has of it, locked by `lease`."""

    lease: Lease
    blocks: Sequence[BlockId] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Fetch:
    """Blocks to be read from disk into host memory, where their places are kept for them.

    `reads` are pairs of a block on disk and its place in host memory.
    """

    lease: Lease
    disk_lease: Lease
    reads: Sequence[tuple[BlockId, BlockId]] = field(repr=False)


@dataclass(slots=True, kw_only=True)
class TiersStats:
    """Sizes now, and what happened since the start, in blocks.

    `lost` are those that have a place but no content, `dropped` those that the queue to the disk
    had no room for, `damaged` those whose file could not be written, read or opened.
    """

    host_blocks: int = 0
    disk_blocks: int = 0
    lost: int = 0
    offloaded: int = 0
    onloaded: int = 0
    written: int = 0
    read: int = 0
    dropped: int = 0
    damaged: int = 0


class Tiers:
    """The tiers below one device tree. Shares its owner's lock, and does no input or output."""

    def __init__(self, device: PrefixTree, config: TiersConfig) -> None:
        self._width = device.block_tokens * TOKEN_BYTES
        self._device = device
        self.host = Shelf(device.block_tokens, config.host_blocks, config.host_quota_blocks)
        self.disk = Shelf(device.block_tokens, config.disk_blocks, config.disk_quota_blocks)
        self._steps: list[Step] = []
        self._counts = TiersStats()
        self._silent = False
        device.on_lapse(self._offload)
        if config.disk_blocks:
            self.host.on_lapse = self._spill
            self.disk.on_free = self._discard

    def open(self, tenant: TenantId) -> None:
        """Give `tenant` its caches, if it has none yet. O(1) afterwards."""
        self.host.open(tenant)
        self.disk.open(tenant)

    def take_steps(self) -> list[Step]:
        """What is to be moved since the last call, in the order in which it must happen.

        Device blocks that the tree frees must not be used again before.
        """
        steps, self._steps = self._steps, []
        return steps

    # -- down ------------------------------------------------------------------------------

    def _offload(self, tenant: TenantId, tokens: bytes, blocks: list[BlockId]) -> None:
        """A claim on the device lapses: copy what host memory lacks of its path."""
        if not self._silent:
            self.open(tenant)
            self._counts.offloaded += self._offer(Tier.HOST, tenant, tokens, blocks)

    def _spill(self, tenant: TenantId, tokens: bytes, blocks: list[BlockId]) -> None:
        """A claim in host memory lapses: write what the disk lacks of its path, as far as the
        content is there."""
        whole = next((n for n, b in enumerate(blocks) if b in self.host.lost), len(blocks))
        if not self._silent and whole:
            tokens = tokens[: whole * self._width]
            self._counts.written += self._offer(Tier.DISK, tenant, tokens, blocks[:whole])

    def _offer(
        self, target: Tier, tenant: TenantId, tokens: bytes, blocks: Sequence[BlockId]
    ) -> int:
        shelf = self.host if target is Tier.HOST else self.disk
        source = Tier.DEVICE if target is Tier.HOST else Tier.HOST
        lease = shelf.match(tenant, tokens)
        if lease is None:
            return 0
        gaps = shelf.grow(lease, tokens)
        shelf.release(lease)
        self._copy(gaps, tenant, source, target, blocks, tokens)
        return sum(len(gap.blocks) for gap in gaps)

    def _copy(
        self,
        gaps: Sequence[Gap],
        tenant: TenantId,
        source: Tier,
        target: Tier,
        blocks: Sequence[BlockId],
        tokens: bytes,
    ) -> None:
        for gap in gaps:
            if not gap.blocks:
                continue
            path = tokens[: gap.end * self._width]
            self._steps.append(Move(tenant, source, target, blocks[gap.start : gap.end], gap, path))

    def _discard(self, tenant: TenantId, blocks: list[BlockId]) -> None:
        self._steps.append(Discard(tenant, blocks))

    # -- up --------------------------------------------------------------------------------

    def below(self, lease: Lease) -> Below | None:
        """What host memory has of the prompt of `lease`, which was just matched, beyond it.

        Some token is left to compute. Counts as the tenant's own, as it is. The caller ends with
        `onload` or `leave`. O(matched nodes + blocks).
        """
        self.open(lease.tenant)
        tokens = lease.tokens
        limit = max(0, len(tokens) // TOKEN_BYTES - 1) // self._device.block_tokens
        found = self.host.match(lease.tenant, tokens, limit)
        if found is None:
            return None
        whole = self.host.whole_blocks(found)
        lease.own_blocks = max(lease.own_blocks, min(whole, lease.n_blocks))
        if whole <= lease.n_blocks:
            self.host.release(found)
            return None
        return Below(found, found.blocks[lease.n_blocks : whole])

    def onload(self, lease: Lease, below: Below, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Store `blocks`, copies of the first blocks of `below`, as the tenant's own, and add them
        to the hit of `lease`.

        Returns those that are stored already: another tenant's. Raises `CacheError` when they do
        not fit the quota; nothing was stored then.
        """
        n_blocks = lease.n_blocks + len(blocks)
        try:
            duplicates = self._device.insert(lease, lease.tokens[: n_blocks * self._width], blocks)
        finally:
            self.host.release(below.lease)
        lease.hit_blocks = lease.own_blocks = n_blocks
        self._counts.onloaded += len(blocks)
        return duplicates

    def leave(self, below: Below) -> None:
        """Onload nothing of `below`."""
        self.host.release(below.lease)

    def fetch(self, tenant: TenantId, tokens: bytes) -> Fetch | None:
        """Find places in host memory for what the disk has of `tokens` beyond the other tiers.

        What the device has of that path is copied, so that only the rest is read. The caller ends
        with `fetched`. `None` when there is nothing to gain.
        """
        self.open(tenant)
        limit = max(0, len(tokens) // TOKEN_BYTES - 1) // self._device.block_tokens
        disk = self.disk.match(tenant, tokens, limit)
        if disk is None:
            return None
        fetch = self._fetch(tenant, tokens[: self.disk.whole_blocks(disk) * self._width], disk)
        if fetch is None:
            self.disk.release(disk)
        return fetch

    def _fetch(self, tenant: TenantId, tokens: bytes, disk: Lease) -> Fetch | None:
        n_disk = len(tokens) // self._width
        device, host = self._device.match(tenant, tokens), self.host.match(tenant, tokens)
        reads = list[tuple[BlockId, BlockId]]()
        if host is not None:
            first = max(device.n_blocks, self.host.whole_blocks(host))
            if first < min(n_disk, self.host.quota_blocks):
                gaps = self.host.grow(host, tokens)
                on_device = [_until(gap, device.n_blocks) for gap in gaps]
                self._copy(on_device, tenant, Tier.DEVICE, Tier.HOST, device.blocks, tokens)
                reads = _reads(gaps, device.n_blocks, disk.blocks)
                self.host.lost.update(place for _, place in reads)
            if not reads:
                self.host.release(host)
        self._device.release(device)
        return Fetch(host, disk, reads) if host is not None and reads else None

    def fetched(self, fetch: Fetch, arrived: Collection[BlockId]) -> None:
        """The files of `fetch` were read; the places `arrived` have their content now. The others
        are lost, in host memory and on disk."""
        for source, place in fetch.reads:
            if place in arrived:
                self.host.lost.discard(place)
            else:
                self.disk.lost.add(source)
        self._counts.read += len(arrived)
        self._counts.damaged += len(fetch.reads) - len(arrived)
        self.host.release(fetch.lease)
        self.disk.release(fetch.disk_lease)

    # -- disk ------------------------------------------------------------------------------

    def lose(self, blocks: Collection[BlockId], *, dropped: bool) -> None:
        """These blocks did not reach the disk, for want of room in the queue (`dropped`) or for
        an error: a path ends in front of them."""
        self.disk.lost.update(blocks)
        if dropped:
            self._counts.dropped += len(blocks)
        else:
            self._counts.damaged += len(blocks)

    def count_damaged(self, n_blocks: int) -> None:
        """These were found damaged on disk before they had a place."""
        self._counts.damaged += n_blocks

    def restore(self, tenant: TenantId, tokens: bytes) -> list[Gap]:
        """Find places on disk for a path whose files are there already. As far as they fit."""
        self.open(tenant)
        lease = self.disk.match(tenant, tokens)
        if lease is None:
            return []
        gaps = self.disk.grow(lease, tokens)
        self.disk.release(lease)
        return gaps

    # -- all tiers -------------------------------------------------------------------------

    def require_idle(self, tenant: TenantId) -> None:
        """Raise `CacheError` while a request or a copy needs what `tenant` has below the device."""
        leases = self.host.leases(tenant) + self.disk.leases(tenant)
        if leases:
            raise CacheError(
                f"{leases} copies between tiers of tenant {tenant} are under way",
                "try again in a moment",
            )

    def forget(self, tenant: TenantId) -> None:
        """Remove all of `tenant` below the device. Raises `CacheError` unless it is idle."""
        self.require_idle(tenant)
        self.host.forget(tenant)
        self.disk.forget(tenant)

    def clear(self) -> list[BlockId]:
        """Forget what no lease needs, in all tiers and of all tenants; the device's blocks."""
        self._silent = True
        try:
            freed = self._device.clear()
            self.host.clear()
            self.disk.clear()
        finally:
            self._silent = False
        return freed

    def stats(self) -> TiersStats:
        """A copy of the counts, with the sizes now."""
        counts = {name: getattr(self._counts, name) for name in TiersStats.__slots__}
        counts["host_blocks"] = self.host.stored_blocks
        counts["disk_blocks"] = self.disk.stored_blocks
        counts["lost"] = len(self.host.lost) + len(self.disk.lost)
        return TiersStats(**counts)

    def check(self) -> None:
        """Raise `IsolationBroken` unless the tiers below the device are sound. O(blocks)."""
        self.host.check()
        self.disk.check()


def _until(gap: Gap, end: int) -> Gap:
    """What lies of `gap` in the first `end` blocks of its path."""
    return Gap(gap.start, gap.blocks[: max(0, end - gap.start)], gap.parent)


def _reads(
    gaps: Sequence[Gap], start: int, disk_blocks: Sequence[BlockId]
) -> list[tuple[BlockId, BlockId]]:
    """Which blocks of the path on disk fill what lies of `gaps` behind its first `start` blocks."""
    places = [(gap.start + n, block) for gap in gaps for n, block in enumerate(gap.blocks)]
    return [(disk_blocks[at], place) for at, place in places if at >= start]
