"""Noninterference: what a tenant sees is a function of what it did itself, and of what is shared.

Programs run twice, in two worlds that differ in what others keep private. Block ids and the
count of duplicates are the engine's, not the tenants', so they are not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.cache import CacheConfig, Lease, PrefixTree
from safekv.cache.node import Node
from safekv.errors import CacheError
from safekv.types import BlockId, TenantId
from support.blocks import tokens_of
from support.lockstep import SHARED, A, B, C, residency, small

QUOTAS = {A: 7, B: 6, C: 5}


@dataclass(frozen=True)
class Op:
    tenant: TenantId
    name: str
    text: str = ""
    n: int = 0


class World:
    """A tree, and for each tenant all that it can see of each of its own operations."""

    def __init__(self, config: CacheConfig, tenants: Iterable[TenantId]) -> None:
        self.tree, self.ids = PrefixTree(config), count()
        self.leases: dict[TenantId, list[Lease]] = defaultdict(list)
        self.seen: dict[TenantId, list[object]] = defaultdict(list)
        self.pool: list[object] = []
        for tenant in tenants:
            self.tree.open(tenant, QUOTAS[tenant])

    def run(self, program: Iterable[Op]) -> World:
        for op in program:
            try:
                result = self.do(op)
            except CacheError as error:
                result = error.message
            self.tree.check()
            self.pool.append(residency(self.tree, SHARED))
            self.seen[op.tenant].append((op.name, result, *self.facts(op.tenant)))
        return self

    def facts(self, tenant: TenantId) -> tuple[object, ...]:
        tree = self.tree
        return (
            tree.room_blocks(tenant),
            tree.locked_blocks(tenant),
            residency(tree, tenant),
            [(lease.n_blocks, len(lease.blocks)) for lease in self.leases[tenant]],
        )

    def do(self, op: Op) -> object:
        tree, mine, tokens = self.tree, self.leases[op.tenant], tokens_of(op.text)
        if op.name in ("put", "hold", "read"):
            lease = tree.match(op.tenant, tokens, op.n or None if op.name == "read" else None)
            mine.append(lease)
            found = lease.n_blocks, lease.own_blocks
            if op.name != "read":
                new = len(op.text) - lease.n_blocks
                tree.insert(lease, tokens, [BlockId(next(self.ids)) for _ in range(new)])
            if op.name == "put":
                tree.release(mine.pop())
            return found
        if op.name == "release" and mine:
            tree.release(mine.pop(op.n % len(mine)))
        if op.name == "adopt" and mine:
            tree.adopt(mine[op.n % len(mine)])
        if op.name == "evict":
            tree.evict(op.n, op.tenant)
        if op.name == "reclaim":
            tree.evict(op.n)
        if op.name == "compact":
            tree.compact(op.n)
        if op.name == "end_epoch":
            tree.end_epoch()
        if op.name == "demote":
            return tree.demote(tokens, op.n)
        return tree.promote(op.tenant, tokens, op.n) if op.name == "promote" else None


OWN = ["put", "put", "put", "hold", "read", "release", "adopt", "evict", "compact"]
PUBLIC = ["promote", "promote", "demote", "end_epoch"]


def ops(tenants: Iterable[TenantId], names: list[str], letters: str) -> st.SearchStrategy[Op]:
    return st.builds(
        Op,
        st.sampled_from(list(tenants)),
        st.sampled_from(names),
        st.text(letters, min_size=1, max_size=6),
        st.integers(0, 6),
    )


def programs(
    tenants: Iterable[TenantId], names: list[str], letters: str, least: int = 12
) -> st.SearchStrategy[list[Op]]:
    return st.lists(ops(tenants, names, letters), min_size=least, max_size=40)


NO_POOL = small(capacity_blocks=18, shared_blocks=0, reused_floor=0.25)
POOL = small(capacity_blocks=22, shared_blocks=4, reused_floor=0.25)
enough = settings(max_examples=150, deadline=None)


@enough
@given(programs([A, B, C], OWN, "ab"))
def test_a_tenant_sees_what_it_would_see_alone(program: list[Op]) -> None:
    """Quotas fit the capacity and nothing is shared, so nobody can feel anybody."""
    together = World(NO_POOL, QUOTAS).run(program)
    for tenant in QUOTAS:
        alone = World(NO_POOL, [tenant]).run(op for op in program if op.tenant == tenant)
        assert together.seen[tenant] == alone.seen[tenant]
    assert together.tree.stored_blocks <= NO_POOL.capacity_blocks


def other_secret(op: Op) -> Op:
    """The same, with another secret of the same form: whatever A does not share of its text."""
    text = op.text.translate(str.maketrans("cd", "dc")) if op.tenant == A else op.text
    return Op(op.tenant, op.name, text, op.n)


def shares_only_public_text(op: Op) -> Op:
    """Promotions and demotions end before the first letter that may be secret."""
    if op.name not in ("promote", "demote"):
        return op
    public = op.text[: min(op.text.find(letter) % 99 for letter in "cd")]
    return Op(op.tenant, op.name, public, min(op.n, len(public)))


@enough
@given(programs([A, B, C], OWN + PUBLIC, "abcd"))
def test_another_secret_looks_the_same_to_everybody(program: list[Op]) -> None:
    """A's secret splits what others hold, is part of their text, or is not: nobody can tell."""
    program = [shares_only_public_text(op) for op in program]
    first = World(POOL, QUOTAS).run(program)
    second = World(POOL, QUOTAS).run(map(other_secret, program))
    assert first.pool == second.pool
    for tenant in (B, C):
        assert first.seen[tenant] == second.seen[tenant]


@enough
@given(
    programs([A], ["put", "hold"], "ab", least=1),
    programs([B, C], OWN + PUBLIC, "ab"),
    st.lists(st.tuples(st.integers(0, 40), ops([A], ["evict", "release", "compact"], "a"))),
)
def test_whether_a_tenant_is_there_at_all_cannot_be_seen(
    early: list[Op], program: list[Op], later: list[tuple[int, Op]]
) -> None:
    """A stores what it likes before anything is shared, and loses it at any time."""
    mixed = list(program)
    for place, op in later:
        mixed.insert(place, op)
    with_a = World(POOL, QUOTAS).run([*early, *mixed])
    without = World(POOL, QUOTAS).run(program)
    for tenant in (B, C):
        assert with_a.seen[tenant] == without.seen[tenant]


# -- the same comparison finds what is really there -----------------------------------------


def test_overcommit_can_be_felt_as_volume() -> None:
    config = small(capacity_blocks=18, shared_blocks=0, overcommit=3.0)
    mine = [Op(B, "put", "abab" + "ab"), Op(C, "put", "a")]
    flood = [Op(A, "put", "bbbb")]
    press = [Op(C, "reclaim", n=3), Op(B, "read", "ababab")]
    calm = World(config, QUOTAS).run([*mine, *press])
    busy = World(config, QUOTAS).run([*flood, Op(A, "put", "b" * 14), *mine, *press])
    assert calm.seen[B] != busy.seen[B]


def test_a_broken_rule_of_visibility_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    program = [Op(A, "put", "abc"), Op(B, "read", "abc")]
    alone = World(NO_POOL, [B]).run(program[1:])
    assert World(NO_POOL, QUOTAS).run(program).seen[B] == alone.seen[B]
    monkeypatch.setattr(Node, "visible_to", lambda node, tenant: True)
    with pytest.raises(AssertionError):
        assert World(NO_POOL, QUOTAS).run(program).seen[B] == alone.seen[B]
