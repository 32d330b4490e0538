"""Tiers do not weaken isolation: each tier holds what the tenant would have there alone.

Programs run on a small device, with small tiers below it; after each step all invariants are
checked, and that each block holds the content of its own path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.cache import Below, Lease, TiersConfig
from safekv.cache.shelf import Shelf
from safekv.errors import CacheError, SafeKVError
from safekv.types import BlockId, TenantId
from support.blocks import tokens_of
from support.lockstep import SHARED, A, B, C, residency, small
from support.tiered import LruModel, Stack

QUOTAS: dict[TenantId, int | None] = {A: 5, B: 4, C: 3}
HOST_QUOTA, DISK_QUOTA = 5, 7
TIERS = TiersConfig(
    host_blocks=3 * HOST_QUOTA,
    host_quota_blocks=HOST_QUOTA,
    disk_blocks=3 * DISK_QUOTA,
    disk_quota_blocks=DISK_QUOTA,
    disk_path="unused",  # type: ignore[arg-type]
)
# More than the quotas: a request computes its blocks before the tree knows of equal ones.
NO_POOL = small(capacity_blocks=24, shared_blocks=0, reused_floor=0.25)
POOL = small(capacity_blocks=28, shared_blocks=4, reused_floor=0.25)


@dataclass(frozen=True)
class Op:
    tenant: TenantId
    name: str
    text: str = ""
    n: int = 0


class World(Stack):
    """A stack, and for each tenant all that it can see of each of its own operations."""

    def __init__(self, pool: bool, tenants: Iterable[TenantId]) -> None:
        super().__init__(POOL if pool else NO_POOL, TIERS, {t: QUOTAS[t] for t in tenants})
        self.seen: dict[TenantId, list[object]] = {t: [] for t in tenants}
        self.pool: list[object] = []

    def run(self, program: Iterable[Op], after: Callable[[], None] = lambda: None) -> World:
        for op in program:
            try:
                result = self.do(op)
            except CacheError as error:
                result = error.message
            if op.n % 2:  # as on the detector's thread, which lets claims lapse and moves nothing
                self.perform()
            self.check()
            after()
            self.pool.append(residency(self.tree, SHARED))
            self.seen[op.tenant].append((op, result, self.residency(op.tenant)))
        return self

    def do(self, op: Op) -> object:
        mine, tree = self.leases[op.tenant], self.tree
        if op.name in ("put", "hold", "damaged"):
            damaged = {op.n} if op.name == "damaged" else set()
            found = self.request(op.tenant, op.text, damaged)
            if op.name != "hold":
                tree.release(mine.pop())
            return found
        if op.name == "release" and mine:
            tree.release(mine.pop(op.n % len(mine)))
        if op.name == "evict":
            self.evict(op.tenant, op.n)
        if op.name == "forget" and not mine:
            self.forget(op.tenant)
            tree.open(op.tenant, QUOTAS[op.tenant])
            self.tiers.open(op.tenant)
        if op.name == "end_epoch":
            tree.end_epoch()
        if op.name == "demote":
            return tree.demote(tokens_of(op.text), op.n)
        if op.name == "promote":
            return tree.promote(op.tenant, tokens_of(op.text), op.n)
        return None


OWN = ["put", "put", "put", "put", "hold", "release", "evict", "damaged", "forget"]
PUBLIC = ["promote", "promote", "demote", "end_epoch"]


def programs(names: list[str], letters: str) -> st.SearchStrategy[list[Op]]:
    ops = st.builds(
        Op,
        st.sampled_from([A, B, C]),
        st.sampled_from(names),
        st.text(letters, min_size=1, max_size=6),
        st.integers(0, 4),
    )
    return st.lists(ops, min_size=12, max_size=40)


enough = settings(max_examples=80, deadline=None)


@enough
@given(programs(OWN, "ab"))
def test_each_tier_holds_what_it_would_hold_alone(program: list[Op]) -> None:
    together = World(False, QUOTAS).run(program)
    for tenant in QUOTAS:
        alone = World(False, [tenant]).run(op for op in program if op.tenant == tenant)
        assert together.seen[tenant] == alone.seen[tenant]


def other_secret(op: Op) -> Op:
    text = op.text.translate(str.maketrans("cd", "dc")) if op.tenant == A else op.text
    return Op(op.tenant, op.name, text, op.n)


def shares_only_public_text(op: Op) -> Op:
    if op.name not in ("promote", "demote"):
        return op
    public = op.text[: min(op.text.find(letter) % 99 for letter in "cd")]
    return Op(op.tenant, op.name, public, min(op.n, len(public)))


@enough
@given(programs(OWN + PUBLIC, "abcd"))
def test_another_secret_looks_the_same_in_all_tiers(program: list[Op]) -> None:
    program = [shares_only_public_text(op) for op in program]
    first = World(True, QUOTAS).run(program)
    second = World(True, QUOTAS).run(map(other_secret, program))
    assert first.pool == second.pool
    for tenant in (B, C):
        assert first.seen[tenant] == second.seen[tenant]


@enough
@given(programs([name for name in OWN if name != "damaged"] + PUBLIC, "abc"))
def test_tiers_below_are_lru_caches_of_what_lapses(program: list[Op]) -> None:
    """Each against a dictionary of single blocks, driven by what its upper tier lets lapse."""
    world = World(True, QUOTAS)
    disk = {t: LruModel(DISK_QUOTA) for t in QUOTAS}
    host = {t: LruModel(HOST_QUOTA, disk[t]) for t in QUOTAS}
    follow(world, host, disk)

    def agree() -> None:
        for tenant in QUOTAS:
            _, in_host, on_disk = world.residency(tenant)
            assert in_host == {tokens_of(p) for p in host[tenant].age}
            assert on_disk == {tokens_of(p) for p in disk[tenant].age}

    world.run(program, agree)


def follow(world: World, host: dict[TenantId, LruModel], disk: dict[TenantId, LruModel]) -> None:
    """Let the models hear of everything that reaches the tiers from above."""
    tiers, text_of = world.tiers, _Texts()
    offload, fetch, below, forget = tiers._offload, tiers.fetch, tiers.below, tiers.forget
    onload = tiers.onload

    def offloaded(tenant: TenantId, tokens: bytes, blocks: list[object]) -> None:
        host[tenant].offer(text_of(tokens))
        offload(tenant, tokens, blocks)  # type: ignore[arg-type]

    def fetched(tenant: TenantId, tokens: bytes) -> object:
        text = text_of(tokens)
        device = _found(world, tenant, text)
        on_disk = text[: disk[tenant].has(text)]
        disk[tenant].use(on_disk)
        host[tenant].use(on_disk)
        first = max(device, host[tenant].has(on_disk))
        if first < min(len(on_disk), HOST_QUOTA):
            keep, spill = host[tenant], host[tenant].below
            assert spill is not None
            spill.locked = {on_disk[: n + 1] for n in range(len(on_disk))}
            keep.offer(on_disk)
            spill.locked = set()
            keep.clock -= 1  # one use, not two
            keep.age = {p: min(t, keep.clock) for p, t in keep.age.items()}
        return fetch(tenant, tokens)

    def looked(lease: Lease) -> Below | None:
        it, text = host[lease.tenant], text_of(lease.tokens)
        it.use(text)
        found = below(lease)
        if found is not None:
            it.locked = {text[: n + 1] for n in range(it.has(text))}
        return found

    def onloaded(lease: Lease, found: Below, blocks: Sequence[BlockId]) -> list[BlockId]:
        duplicates = onload(lease, found, blocks)
        host[lease.tenant].locked.clear()
        return duplicates

    def forgotten(tenant: TenantId) -> None:
        forget(tenant)
        host[tenant].age.clear()
        disk[tenant].age.clear()

    world.tree.on_lapse(offloaded)  # type: ignore[arg-type]
    tiers.onload = onloaded  # type: ignore[method-assign]
    tiers.fetch, tiers.below, tiers.forget = fetched, looked, forgotten  # type: ignore[method-assign, assignment]


class _Texts:
    def __call__(self, tokens: bytes) -> str:
        names = {tokens_of(letter): letter for letter in "abcd"}
        width = len(tokens_of("a"))
        whole = len(tokens) // width * width
        return "".join(names[tokens[n : n + width]] for n in range(0, whole, width))


def _found(world: World, tenant: TenantId, text: str) -> int:
    mine = residency(world.tree, tenant) | residency(world.tree, SHARED)
    n = 0
    while n < len(text) and tokens_of(text[: n + 1]) in mine:
        n += 1
    return n


# -- broken on purpose, to show that the tests above can fail ---------------------------------

DOWN_AND_UP = [
    Op(A, "put", "aabb"),
    Op(A, "put", "bbab"),
    Op(B, "put", "abab"),
    Op(A, "put", "abba"),
    Op(A, "put", "baba"),
    Op(A, "put", "aabb"),
    Op(B, "put", "bbbb"),
    Op(B, "put", "abab"),
]


def test_a_path_goes_down_and_comes_up_again() -> None:
    world = World(False, QUOTAS).run(DOWN_AND_UP)
    stats = world.tiers.stats()
    assert stats.offloaded and stats.onloaded and stats.written and stats.read  # noqa: PT018


def one_for_all(shelf: Shelf, tenant: TenantId) -> None:
    if tenant not in shelf._trees:
        shelf._trees[tenant] = next(iter(shelf._trees.values()), None) or _tree(shelf)


def _tree(shelf: Shelf) -> object:
    from safekv.cache import PrefixTree

    return PrefixTree(shelf._config)


def free_nothing(shelf: Shelf, tenant: TenantId, blocks: list[object]) -> None:
    return None


MUTANTS: dict[str, tuple[type, str, object]] = {
    "tenants share a tier's tree": (Shelf, "open", one_for_all),
    "blocks leave a tier and are gone": (Shelf, "_take_back", free_nothing),
    "lost blocks count as there": (Shelf, "whole_blocks", lambda shelf, lease: lease.n_blocks),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = [*DOWN_AND_UP[:5], Op(A, "damaged", "aabb", 1), *DOWN_AND_UP[5:]]

    def run() -> None:
        together = World(False, QUOTAS).run(program)
        for tenant in QUOTAS:
            alone = World(False, [tenant]).run(op for op in program if op.tenant == tenant)
            assert together.seen[tenant] == alone.seen[tenant]

    run()
    owner, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    with pytest.raises((AssertionError, SafeKVError)):
        run()
