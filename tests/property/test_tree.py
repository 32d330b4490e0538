"""The prefix tree against a model that stores every block by its whole path."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from safekv.cache import Lease, PrefixTree
from safekv.types import BlockId, Scope, TenantId, pack_tokens

BLOCK = 2
tenants = st.sampled_from([TenantId("a"), TenantId("b"), TenantId("c")])
# Two kinds of blocks make shared prefixes, splits and near misses likely.
paths = st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1)]), min_size=1, max_size=6).map(tuple)
Path = tuple[tuple[int, int], ...]


def packed(path: Path) -> bytes:
    return pack_tokens(token for block in path for token in block)


class TreeModel(RuleBasedStateMachine):
    """Every stored prefix, with its block, holders and scope, in one flat dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree(BLOCK)
        self.ids = (BlockId(n) for n in count())
        self.block: dict[Path, BlockId] = {}
        self.holders: dict[Path, set[TenantId]] = {}
        self.shared: set[Path] = set()
        self.used: dict[Path, int] = {}
        self.now = 0
        self.leases: list[tuple[Lease, Path]] = []

    def prefixes(self, path: Path) -> Iterator[Path]:
        return (path[: n + 1] for n in range(len(path)))

    def visible(self, tenant: TenantId, path: Path) -> list[Path]:
        found = []
        for prefix in self.prefixes(path):
            if prefix not in self.block:
                break
            if prefix not in self.shared and tenant not in self.holders[prefix]:
                break
            found.append(prefix)
        return found

    @rule(tenant=tenants, path=paths, keep=st.booleans())
    def request(self, tenant: TenantId, path: Path, keep: bool) -> None:
        lease = self.tree.match(tenant, packed(path), len(path))
        seen = self.visible(tenant, path)
        assert lease.blocks == [self.block[p] for p in seen]
        own = [tenant in self.holders[p] for p in seen]
        assert lease.own_blocks == (own.index(False) if False in own else len(own))
        mine = [*lease.blocks, *(next(self.ids) for _ in range(len(path) - len(seen)))]
        stored = self.tree.insert(lease, packed(path), mine)
        for prefix, block in zip(self.prefixes(path), mine, strict=True):
            self.block.setdefault(prefix, block)
            self.holders.setdefault(prefix, set()).add(tenant)
        assert stored == [self.block[p] for p in self.prefixes(path)]
        if keep:
            self.leases.append((lease, path))
        else:
            self.tree.release(lease)

    @rule(tenant=tenants, path=paths)
    def read(self, tenant: TenantId, path: Path) -> None:
        lease = self.tree.match(tenant, packed(path), len(path))
        self.tree.adopt(lease, packed(path))
        for prefix in self.visible(tenant, path):
            self.holders[prefix].add(tenant)
        self.leases.append((lease, path[: len(lease.blocks)]))

    @rule(tenant=tenants, path=paths, n=st.integers(0, 6))
    def promote(self, tenant: TenantId, path: Path, n: int) -> None:
        expected = [p for p in self.visible(tenant, path[:n]) if p not in self.shared]
        assert self.tree.promote(tenant, packed(path), n) == len(expected)
        self.shared.update(expected)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.tree.release(lease)
        self.tree.release(lease)

    @rule(n=st.integers(0, 5))
    def evict(self, n: int) -> None:
        could = self.tree.evictable_blocks
        freed = self.tree.evict(n)
        assert len(freed) == min(n, could)
        locked = {self.block[p] for _, path in self.leases for p in self.prefixes(path)}
        assert locked.isdisjoint(freed)
        for prefix in [p for p, block in self.block.items() if block in set(freed)]:
            for table in (self.block, self.holders):
                del table[prefix]
            self.shared.discard(prefix)
        # What was kept is still a set of whole prefixes: nothing hangs in the air.
        assert all(p[:-1] in self.block for p in self.block if len(p) > 1)

    @invariant()
    def structure(self) -> None:
        self.tree.check()
        assert self.tree.stored_blocks == len(self.block)
        stats = self.tree.stats()
        assert stats.shared_blocks == len(self.shared)

    @invariant()
    def nothing_shared_hangs_below_private(self) -> None:
        assert all(p[:-1] in self.shared for p in self.shared if len(p) > 1)


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
