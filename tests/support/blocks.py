"""A model of the prefix tree that knows single blocks and nothing of nodes.

A text is a string of letters, one block each. Every stored prefix is kept by its whole text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from safekv.cache import CacheConfig
from safekv.errors import CacheError
from safekv.types import Scope, TenantId, pack_tokens

Holder = TenantId | Scope
SHARED = Scope.SHARED
BLOCK_TOKENS = 2
LETTERS = "abcd"


def tokens_of(text: str) -> bytes:
    """One block of two tokens per letter; 'a' to 'd' are all there are of two tokens, so that
    neighbours differ in their first token, their last one, or both."""
    return pack_tokens(token for letter in text for token in divmod(ord(letter) - 97, 2))


def prefixes(text: str) -> Iterable[str]:
    return (text[: n + 1] for n in range(len(text)))


@dataclass(eq=False)
class ModelLease:
    tenant: TenantId
    text: str
    own: int


@dataclass
class BlockModel:
    """Who holds which prefix, and since when they have not used it; all in one dictionary.

    A use covers all prefixes of its text. Ages of tenants are their own times; ages of shared
    prefixes are (epoch, promotion of the block in which the use ended), and reads wait in
    `reads` for the end of the epoch. `fresh` prefixes were promoted in this epoch.
    """

    config: CacheConfig
    block: dict[str, int] = field(default_factory=dict)
    age: dict[tuple[str, Holder], tuple[int, int]] = field(default_factory=dict)
    quota: dict[TenantId, int | None] = field(default_factory=dict)
    now: int = 0
    promotions: int = 0
    epoch: int = 0
    born: dict[str, int] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    reads: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    leases: list[ModelLease] = field(default_factory=list)
    reused: set[tuple[str, Holder]] = field(default_factory=set)
    freed: set[int] = field(default_factory=set)

    # -- facts -----------------------------------------------------------------------------

    def holders(self, text: str) -> set[Holder]:
        return {h for p, h in self.age if p == text}

    def held(self, *holders: Holder, text: str) -> int:
        """How many leading blocks of `text` one or the other of `holders` holds."""
        n = 0
        while n < len(text) and any((text[: n + 1], h) in self.age for h in holders):
            n += 1
        return n

    def charged(self, tenant: TenantId) -> set[str]:
        return {p for p, h in self.age if h == tenant and (p, SHARED) not in self.age}

    def shared(self) -> set[str]:
        return {p for p, h in self.age if h is SHARED}

    def locked(self, tenant: TenantId) -> set[str]:
        covered = {p for m in self.leases if m.tenant == tenant for p in prefixes(m.text)}
        return covered & self.charged(tenant)

    def ends(self, holder: Holder, texts: set[str]) -> list[str]:
        """Those of `texts` with no longer prefix of the same holder, oldest first."""
        inner = {p[:-1] for p, h in self.age if h == holder}
        return sorted(texts - inner, key=lambda p: self.age[p, holder])

    def quota_of(self, tenant: TenantId) -> int:
        explicit = self.quota[tenant]
        left = self.config.private_blocks - sum(q or 0 for q in self.quota.values())
        equal = sum(q is None for q in self.quota.values())
        return left // equal if explicit is None else explicit

    def ceiling(self, tenant: TenantId) -> int:
        most = int(self.quota_of(tenant) * self.config.overcommit)
        return min(self.config.private_blocks, most)

    # -- small steps -----------------------------------------------------------------------

    def tick(self) -> tuple[int, int]:
        """One count for all tenants: their uses are compared where memory is overcommitted."""
        self.now += 1
        return 0, self.now

    def use(self, holder: Holder, text: str, now: tuple[int, int]) -> None:
        for p in prefixes(text):
            if (p, holder) in self.age:
                self.age[p, holder] = max(now, self.age[p, holder])

    def hold(self, holder: Holder, text: str, now: tuple[int, int]) -> None:
        for p in prefixes(text):
            self.age.setdefault((p, holder), now)
        self.use(holder, text, now)

    def drop(self, holder: Holder, text: str) -> None:
        del self.age[text, holder]
        self.reused.discard((text, holder))
        if not self.holders(text):
            self.freed.add(self.block.pop(text))

    def lapse(self, tenant: TenantId, n_blocks: int) -> int:
        for done in range(n_blocks):
            ends = self.ends(tenant, self.charged(tenant) - self.locked(tenant))
            if not ends:
                return done
            self.drop(tenant, self.first_to_go(tenant, ends))
        return max(0, n_blocks)

    def first_to_go(self, tenant: TenantId, ends: list[str]) -> str:
        """The oldest; but the oldest that was never matched again, once few others are left."""
        fresh = [p for p in ends if (p, tenant) not in self.reused]
        again = sum((p, tenant) in self.reused for p in self.charged(tenant))
        floor = self.config.reused_floor * self.quota_of(tenant)
        return ends[0] if again > floor or not fresh else fresh[0]

    def adopt(self, lease: ModelLease) -> None:
        if self.held(lease.tenant, text=lease.text) < len(lease.text):
            self.hold(lease.tenant, lease.text, self.tick())

    def unshare(self, texts: set[str]) -> None:
        """Return shared texts to those who hold them, and who lease them: oldest lease first."""
        for lease in self.leases:
            if texts & set(prefixes(lease.text)):
                self.adopt(lease)
        for p in sorted(texts, key=len, reverse=True):
            self.drop(SHARED, p)
            if p[:-1] not in {q[:-1] for q in self.shared()}:
                self.fresh.discard(p[:-1])  # a parent takes its place among the ends at once

    def enforce(self) -> None:
        for tenant in self.quota:
            self.lapse(tenant, len(self.charged(tenant)) - self.ceiling(tenant))

    # -- what the tree can do --------------------------------------------------------------

    def open(self, tenant: TenantId, quota: int | None = None) -> None:
        quotas = [*(q for t, q in self.quota.items() if t != tenant), quota or None]
        left = self.config.private_blocks - sum(q or 0 for q in quotas)
        if quota == 0 or left < sum(q is None for q in quotas):
            raise CacheError("the model has no quota left")
        self.quota[tenant] = quota

    def known(self, tenant: TenantId) -> None:
        if tenant not in self.quota:
            self.open(tenant, self.config.quota_blocks)

    def match(self, tenant: TenantId, text: str) -> ModelLease:
        self.known(tenant)
        seen = text[: self.held(tenant, SHARED, text=text)]
        own, shared = self.held(tenant, text=seen), self.held(SHARED, text=seen)
        if own:
            self.use(tenant, seen[:own], self.tick())
            self.reused.update((p, tenant) for p in prefixes(seen[:own]))
        if shared:
            self.reads.append((seen[:shared], (self.epoch, self.born[seen[:shared]])))
        self.leases.append(ModelLease(tenant, seen, own))
        return self.leases[-1]

    def insert(self, lease: ModelLease, text: str, ids: list[int]) -> list[int]:
        lacking = len(self.charged(lease.tenant)) + len(ids) - self.ceiling(lease.tenant)
        if ids and lacking > len(self.charged(lease.tenant)) - len(self.locked(lease.tenant)):
            raise CacheError("the model is full")
        self.lapse(lease.tenant, lacking if ids else 0)
        self.adopt(lease)
        new = list(prefixes(text))[len(lease.text) :]
        duplicates = [i for p, i in zip(new, ids, strict=True) if p in self.block]
        for p, i in zip(new, ids, strict=True):
            self.block.setdefault(p, i)
        if ids:
            self.hold(lease.tenant, text, self.tick())
        lease.text = text
        return duplicates

    def promote(self, tenant: TenantId, text: str, n_blocks: int) -> int:
        text = text[: max(0, n_blocks)]
        start, reach = self.held(SHARED, text=text), self.held(tenant, SHARED, text=text)
        if reach <= start:
            return 0
        reach = min(reach, start + self.config.pool_blocks)
        replaced = self.replace(reach - start - self.pool_room(), keep=text[:start])
        reach = min(reach, start + self.pool_room())
        self.promotions += 1
        self.fresh.update(text[: n + 1] for n in range(start, reach))
        self.born.update((text[: n + 1], self.promotions) for n in range(start, reach))
        self.hold(SHARED, text[:reach] if reach > start else "", (self.epoch, self.promotions))
        if replaced:
            self.enforce()
        return reach - start

    def pool_room(self) -> int:
        return self.config.pool_blocks - len(self.shared())

    def replace(self, n_blocks: int, keep: str) -> bool:
        for n in range(n_blocks):
            ends = self.ends(SHARED, self.shared() - self.fresh - {keep})
            if not ends:
                return n > 0
            self.unshare({ends[0]})
        return n_blocks > 0

    def demote(self, text: str, keep: int) -> int:
        top = text[: keep + 1]
        gone = {p for p in self.shared() if p.startswith(top)} if len(top) > keep else set()
        self.unshare(gone)
        if gone:
            self.enforce()
        return len(gone)

    def evict(self, n_blocks: int, tenant: TenantId | None) -> None:
        if tenant is not None:
            self.known(tenant)
            self.lapse(tenant, n_blocks)
            return
        goal = len(self.block) - n_blocks
        while len(self.block) > goal and (borrowed := self.borrowed()):
            self.lapse(min(borrowed)[1], 1)
        left = [t for t in self.quota if self.charged(t)]
        while len(self.block) > goal and left:
            t = max(left, key=lambda t: len(self.charged(t)) / self.quota_of(t))
            stuck = not self.lapse(t, len(self.block) - goal)
            left = [u for u in left if self.charged(u) and not (u == t and stuck)]

    def borrowed(self) -> list[tuple[tuple[int, int], TenantId]]:
        """Who is over quota, and how old the block is that it loses next."""
        found = []
        for t in self.quota:
            ends = self.ends(t, self.charged(t) - self.locked(t))
            if ends and len(self.charged(t)) > self.quota_of(t):
                found.append((self.age[self.first_to_go(t, ends), t], t))
        return found

    def forget(self, tenant: TenantId) -> None:
        if tenant not in self.quota:
            return
        if any(m.tenant == tenant for m in self.leases):
            raise CacheError("the model has leases of the tenant")
        for p in sorted((p for p, h in self.age if h == tenant), key=len, reverse=True):
            self.drop(tenant, p)
        del self.quota[tenant]

    def end_epoch(self) -> None:
        for text, when in self.reads:
            self.use(SHARED, text, when)
        self.reads.clear()
        self.fresh.clear()
        self.epoch += 1
