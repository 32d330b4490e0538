"""A tree with tiers below it, whose blocks have contents: what a moved block holds is checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from safekv.cache import CacheConfig, Discard, Fetch, Lease, Move, PrefixTree, Tiers, TiersConfig
from safekv.errors import CacheError
from safekv.types import BlockId, TenantId, Tier, unpack_blocks
from support.blocks import tokens_of
from support.lockstep import residency

Path = bytes
OFFERED = (Tier.HOST, Tier.DISK)


@dataclass
class LruModel:
    """What one tenant keeps in one tier: prefixes by age, and where those go that are too many."""

    quota: int
    below: LruModel | None = None
    age: dict[str, int] = field(default_factory=dict)
    clock: int = 0
    locked: set[str] = field(default_factory=set)

    def has(self, text: str) -> int:
        n = 0
        while n < len(text) and text[: n + 1] in self.age:
            n += 1
        return n

    def use(self, text: str) -> None:
        self.clock += 1
        self.age.update((text[: n + 1], self.clock) for n in range(self.has(text)))

    def offer(self, text: str) -> None:
        """`text` is used here, and stored as far as the quota goes; the oldest ends make room."""
        self.use(text)
        found = self.has(text)
        kept = self.locked | {text[: n + 1] for n in range(found)}
        text = text[: found + max(0, self.quota - len(kept))]
        kept |= {text[: n + 1] for n in range(len(text))}
        while len(self.age.keys() | kept) > self.quota:
            inner = {p[:-1] for p in self.age}
            oldest = min(self.age.keys() - inner - kept, key=lambda p: self.age[p])
            if self.below is not None:
                self.below.offer(oldest)
            del self.age[oldest]
        self.age.update(dict.fromkeys(kept - self.age.keys(), self.clock))


class Stack:
    """Does what an engine does, with tokens for KV, and keeps to the order of steps."""

    def __init__(
        self, device: CacheConfig, tiers: TiersConfig, quotas: dict[TenantId, int | None]
    ) -> None:
        self.tree = PrefixTree(device)
        self.tiers = Tiers(self.tree, tiers)
        self.kv: dict[Tier, dict[BlockId, Path]] = {tier: {} for tier in Tier}
        self.free = [BlockId(n) for n in range(device.capacity_blocks)]
        self.evicted: list[BlockId] = []
        self.leases: dict[TenantId, list[Lease]] = {}
        for tenant, quota in quotas.items():
            self.tree.open(tenant, quota)
            self.tiers.open(tenant)
            self.leases[tenant] = []

    def perform(self) -> None:
        """All steps, and only then are freed blocks free."""
        for step in self.tiers.take_steps():
            if isinstance(step, Discard):
                for block in step.blocks:
                    self.kv[Tier.DISK].pop(block, None)
                continue
            self.copy(step)
        self.free += [*self.evicted, *self.tree.take_freed()]
        self.evicted.clear()

    def evict(self, tenant: TenantId, n_blocks: int) -> None:
        self.evicted += self.tree.evict(n_blocks, tenant)

    def forget(self, tenant: TenantId) -> None:
        self.tiers.forget(tenant)
        self.evicted += self.tree.forget(tenant)

    def copy(self, move: Move) -> None:
        width = self.tree.block_tokens * 4
        for n, (source, target) in enumerate(
            zip(move.source_blocks, move.gap.blocks, strict=True), start=move.gap.start + 1
        ):
            content = self.kv[move.source][source]
            assert content == move.tokens[: n * width], "another block was copied"
            self.kv[move.target][target] = content

    def take(self, n_blocks: int) -> list[BlockId]:
        self.perform()
        taken, self.free = self.free[:n_blocks], self.free[n_blocks:]
        return taken

    # -- one request -----------------------------------------------------------------------

    def request(self, tenant: TenantId, text: str, damaged: Iterable[int] = ()) -> object:
        """Read from disk, match, onload, compute the rest; the lease is kept. What was found."""
        tokens = tokens_of(text) + b"\0\0\0\0"
        read = self.fetch(tenant, tokens, set(damaged))
        lease = self.tree.match(tenant, tokens, len(text))
        hit, onloaded = lease.n_blocks, 0
        self.leases[tenant].append(lease)
        if below := self.tiers.below(lease):
            onloaded = self.onload(lease, below)
        own = lease.own_blocks
        new = len(text) - lease.n_blocks
        room = self.tree.room_blocks(tenant)
        if new > room:
            self.evict(tenant, new - room)
        ids = self.take(new)
        whole = tokens_of(text)
        width = self.tree.block_tokens * 4
        for n, block in enumerate(ids, start=lease.n_blocks + 1):
            self.kv[Tier.DEVICE][block] = whole[: n * width]
        try:
            self.free += self.tree.insert(lease, whole, ids)
        except CacheError:
            self.free += ids
        self.perform()
        return hit, onloaded, own, read

    def fetch(self, tenant: TenantId, tokens: bytes, damaged: set[int]) -> int:
        fetch = self.tiers.fetch(tenant, tokens)
        self.perform()
        return self.fetched(fetch, damaged) if fetch is not None else 0

    def fetched(self, fetch: Fetch, damaged: set[int]) -> int:
        arrived = set()
        for n, (source, place) in enumerate(fetch.reads):
            if n not in damaged:
                self.kv[Tier.HOST][place] = self.kv[Tier.DISK][source]
                arrived.add(place)
        self.tiers.fetched(fetch, arrived)
        return len(arrived)

    def onload(self, lease: Lease, below: object) -> int:
        room = self.tree.ceiling_blocks(lease.tenant) - self.tree.locked_blocks(lease.tenant)
        n = min(len(below.blocks), room)  # type: ignore[attr-defined]
        charged = self.tree.charged_blocks(lease.tenant)
        over = charged + n - self.tree.ceiling_blocks(lease.tenant)
        if over > 0:
            self.evict(lease.tenant, over)
        ids = self.take(n)
        for source, target in zip(below.blocks, ids, strict=False):  # type: ignore[attr-defined]
            self.kv[Tier.DEVICE][target] = self.kv[Tier.HOST].get(source, b"")
        self.free += self.tiers.onload(lease, below, ids)  # type: ignore[arg-type]
        return len(ids)

    # -- facts -----------------------------------------------------------------------------

    def check(self) -> None:
        """Invariants of all tiers, and every block that counts as there holds its own content.

        Contents only when no step waits.
        """
        self.tree.check()
        self.tiers.check()
        waiting = len(self.free) + len(self.evicted) + self.tree.freed_blocks
        assert self.tree.stored_blocks + waiting == self.tree.config.capacity_blocks
        if self.tiers._steps:
            return
        trees = [(Tier.DEVICE, self.tree, set[BlockId]())]
        for tier, shelf in ((Tier.HOST, self.tiers.host), (Tier.DISK, self.tiers.disk)):
            kept = [shelf.contents(tenant) for tenant in self.leases]
            trees += [(tier, tree, shelf.lost) for tree in kept if tree is not None]
        for tier, tree, lost in trees:
            for path, block in blocks_of(tree):
                assert block in lost or self.kv[tier][block] == path, f"{tier} holds another block"

    def residency(self, tenant: TenantId) -> tuple[set[Path], ...]:
        """What `tenant` has in each tier."""
        shelves = (self.tiers.host.contents(tenant), self.tiers.disk.contents(tenant))
        below = [residency(tree, tenant) if tree is not None else set() for tree in shelves]
        return residency(self.tree, tenant), *below


def blocks_of(tree: PrefixTree) -> Iterable[tuple[Path, BlockId]]:
    paths: dict[object, bytes] = {}
    for node in tree.nodes():
        before = paths.get(node.parent, b"")
        paths[node] = before + node.tokens()
        for n, block in enumerate(unpack_blocks(node.blocks), start=1):
            yield paths[node][: len(before) + n * len(node.key)], block
