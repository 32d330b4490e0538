"""The prefix tree against a model that stores every block by its whole path."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from safekv.cache import Lease, PrefixTree
from safekv.cache.node import Holder
from safekv.types import BlockId, Scope, TenantId, pack_tokens

BLOCK = 2
tenants = st.sampled_from([TenantId("a"), TenantId("b"), TenantId("c")])
# Two kinds of blocks make shared prefixes, splits and near misses likely.
paths = st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1)]), min_size=1, max_size=6).map(tuple)
Path = tuple[tuple[int, int], ...]
Claim = tuple[Path, Holder]
SHARED = Scope.SHARED


def packed(path: Path) -> bytes:
    return pack_tokens(token for block in path for token in block)


def prefixes(path: Path) -> Iterator[Path]:
    return (path[: n + 1] for n in range(len(path)))


class TreeModel(RuleBasedStateMachine):
    """Every stored prefix by its whole path: its block, its claims and their ages.

    A claim is (prefix, holder), where the holder is a tenant or "everyone"; ages are kept per
    claim and move by their own holder's use alone. The model evicts one block at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree(BLOCK)
        self.ids = (BlockId(n) for n in count())
        self.block: dict[Path, BlockId] = {}
        self.age: dict[Claim, int] = {}
        self.now = 0
        self.leases: list[tuple[Lease, Path]] = []

    def holds(self, path: Path, holder: Holder) -> bool:
        return (path, holder) in self.age

    def visible(self, tenant: TenantId, path: Path) -> list[Path]:
        found = []
        for prefix in prefixes(path):
            if not (self.holds(prefix, SHARED) or self.holds(prefix, tenant)):
                break
            found.append(prefix)
        return found

    def touch(self, tenant: TenantId, path: Path) -> None:
        for holder in (tenant, SHARED):
            if self.holds(path, holder):
                self.age[path, holder] = self.now

    def match(self, tenant: TenantId, path: Path) -> tuple[Lease, list[Path]]:
        self.now += 1
        lease = self.tree.match(tenant, packed(path), len(path))
        seen = self.visible(tenant, path)
        assert lease.blocks == [self.block[p] for p in seen]
        assert lease.own_blocks == sum(self.holds(p, tenant) for p in seen)
        for prefix in seen:
            self.touch(tenant, prefix)
        return lease, seen

    @rule(tenant=tenants, path=paths, keep=st.booleans())
    def request(self, tenant: TenantId, path: Path, keep: bool) -> None:
        lease, seen = self.match(tenant, path)
        self.now += 1
        mine = [*lease.blocks, *(next(self.ids) for _ in range(len(path) - len(seen)))]
        stored = self.tree.insert(lease, packed(path), mine)
        for prefix, block in zip(prefixes(path), mine, strict=True):
            self.block.setdefault(prefix, block)
            self.age[prefix, tenant] = self.now
            self.touch(tenant, prefix)
        assert stored == [self.block[p] for p in prefixes(path)]
        if keep:
            self.leases.append((lease, path))
        else:
            self.tree.release(lease)

    @rule(tenant=tenants, path=paths)
    def read(self, tenant: TenantId, path: Path) -> None:
        lease, seen = self.match(tenant, path)
        self.tree.adopt(lease, packed(path))
        if lease.own_blocks < len(seen):
            self.now += 1
            for prefix in seen:
                self.age[prefix, tenant] = self.now
                self.touch(tenant, prefix)
        self.leases.append((lease, path[: len(seen)]))

    @rule(tenant=tenants, path=paths, n=st.integers(0, 6))
    def promote(self, tenant: TenantId, path: Path, n: int) -> None:
        new = [p for p in self.visible(tenant, path[:n]) if not self.holds(p, SHARED)]
        assert self.tree.promote(tenant, packed(path), n) == len(new)
        self.now += 1
        for prefix in new:
            self.age[prefix, SHARED] = self.now

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.tree.release(lease)
        self.tree.release(lease)

    def charged(self) -> list[Claim]:
        return [(p, h) for p, h in self.age if h is SHARED or not self.holds(p, SHARED)]

    def locked(self) -> set[Claim]:
        return {
            (p, SHARED if self.holds(p, SHARED) else lease.tenant)
            for lease, path in self.leases
            for p in prefixes(path)
        }

    def depends(self, claim: Claim) -> bool:
        """Whether something stored hangs on the claim: for everyone's, any longer path."""
        path, holder = claim
        longer = [p for p in self.block if p[:-1] == path and len(p) > len(path)]
        return bool(longer) if holder is SHARED else any(self.holds(p, holder) for p in longer)

    @rule(n=st.integers(0, 7))
    def evict(self, n: int) -> None:
        locked, gone = self.locked(), set[BlockId]()
        for _ in range(n):
            free = [c for c in self.charged() if c not in locked and not self.depends(c)]
            if not free:
                break
            path, holder = min(free, key=self.age.__getitem__)
            del self.age[path, holder]
            if holder is SHARED or not any(p == path for p, _ in self.age):
                gone.add(self.block.pop(path))
                self.age = {c: age for c, age in self.age.items() if c[0] != path}
        assert set(self.tree.evict(n)) == gone

    @invariant()
    def structure(self) -> None:
        self.tree.check()
        stats = self.tree.stats()
        assert stats.blocks == len(self.block)
        assert stats.charged_blocks == len(self.charged()) >= stats.blocks
        assert stats.locked_blocks == len(self.locked())
        assert stats.shared_blocks == sum(self.holds(p, SHARED) for p in self.block)

    @invariant()
    def nothing_shared_hangs_below_private(self) -> None:
        shared = {p for p, h in self.age if h is SHARED}
        assert all(p[:-1] in shared for p in shared if len(p) > 1)


TestTree = TreeModel.TestCase
TestTree.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_scope_is_not_a_tenant() -> None:
    """No tenant name, however odd, sees what belongs to another."""
    tree = PrefixTree(BLOCK)
    path: Path = ((1, 1), (1, 2))
    tree.release(owner := tree.match(TenantId("a"), packed(path), 2))
    owner = tree.match(TenantId("a"), packed(path), 2)
    tree.insert(owner, packed(path), [BlockId(1), BlockId(2)])
    for name in ("", "shared", "SHARED", "None", "b", Scope.SHARED.value, "a "):
        assert tree.match(TenantId(name), packed(path), 2).blocks == []
    assert tree.match(None, packed(path), 2).blocks == []  # type: ignore[arg-type]
