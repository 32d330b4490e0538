"""The one place that decides which blocks of a request are everybody's."""

from __future__ import annotations

import random

import pytest

from safekv.engines.vllm.keys import ROOT, BlockKeys
from safekv.engines.vllm.prompt import Keyed
from safekv.engines.vllm.visible import OwnBlocks, Visibility, leading
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, TenantId, pack_tokens

KEYS = BlockKeys(b"s" * 32)
A = TenantId("a")


def keyed(n_blocks: int = 6, tenant: TenantId | None = A, first: int = 0) -> Keyed:
    public = KEYS.chain(ROOT, pack_tokens(range(first, first + 4 * n_blocks)), 4)
    key = KEYS.tenant(tenant) if tenant is not None else KEYS.nobody()
    one = Keyed(tenant, key, public=public, private=KEYS.private(key, public))
    one.prompt_blocks = n_blocks
    return one


def visible(mode: Mode = Mode.SELECTIVE, **more: object) -> Visibility:
    return Visibility(mode, SafeguardConfig(**more), own_blocks=100)  # type: ignore[arg-type]


def test_leading_is_what_a_walk_would_find() -> None:
    rng = random.Random(1)
    for _ in range(500):
        names = keyed(rng.randint(0, 9)).public
        known = set(names[: rng.randint(0, 9)]) | {b"x"}
        limit = rng.choice((None, rng.randint(0, 9)))
        walked = 0
        for name in names[:limit]:
            if name not in known:
                break
            walked += 1
        assert leading(names, known, limit) == walked


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.DECLARED, Mode.SELECTIVE])
def test_nothing_is_public_before_it_is_shared(mode: Mode) -> None:
    seen = visible(mode)
    assert seen.admit(keyed(), 6) == 0
    assert seen.admit(keyed(tenant=None), 6) == 0


def test_shared_blocks_are_public_for_tenants_and_for_nobody_else() -> None:
    seen = visible()
    for name in keyed().public[:4]:
        seen.share(name)
    assert seen.admit(keyed(), 6) == 4
    assert seen.admit(keyed(tenant=None), 6) == 0
    alone = keyed()
    alone.reads_shared = False
    assert seen.admit(alone, 6) == 0


def test_declared_blocks_are_everybodys_once_they_are_shared() -> None:
    seen = visible()
    seen.declare(keyed().public[:3])
    assert seen.admit(keyed(tenant=None), 6) == 0
    for name in keyed().public[:5]:
        seen.share(name)
    assert seen.admit(keyed(tenant=None), 6) == 3
    assert seen.told(keyed(tenant=None), 0) == 0


def test_told_are_ones_own_and_declared_blocks() -> None:
    seen = visible()
    for name in keyed().public[:4]:
        seen.share(name)
    first = keyed()
    first.n_public = seen.admit(first, 6)
    assert seen.told(first, 4) == 0
    assert seen.told(first, 5) == 5  # behind a private block of its own all is its own
    seen.computed(first)
    assert seen.told(first, 4) == 4
    other = keyed(tenant=TenantId("b"))
    other.n_public = 4
    assert seen.told(other, 4) == 0
    seen.declare(first.public[:2])
    assert seen.told(other, 4) == 2


def test_revoked_blocks_are_out_of_sight_at_once() -> None:
    seen, one = visible(), keyed()
    for name in one.public:
        seen.share(name)
    before = seen.version
    one.n_public = seen.admit(one, 6)
    seen.revoke(reversed(one.public[2:]))
    assert seen.version != before
    assert seen.refresh(one) == 2
    assert seen.admit(keyed(), 6) == 2


def test_a_running_request_names_what_became_shared_but_not_beyond_its_budget() -> None:
    seen = visible(reads_per_node=1, reads_per_tenant=1, armed_reads=1)
    free, spent = keyed(), keyed(first=1000)
    assert seen.admit(free, 6) == 0
    for name in free.public[:2]:
        seen.share(name)
    assert seen.refresh(free) == 2
    seen.share(spent.public[0])
    assert seen.admit(spent, 6) == 1
    over = keyed(first=2000)
    seen.share(over.public[0])
    assert seen.admit(over, 6) == 0
    seen.share(over.public[1])
    assert seen.refresh(over) == 0
    assert seen.denied == 1


def test_unsafe_global_is_everybodys_but_nobodys() -> None:
    seen = visible(Mode.UNSAFE_GLOBAL)
    assert seen.admit(keyed(), 6) == 6
    assert seen.admit(keyed(tenant=None), 6) == 0


def test_forgetting_leaves_nothing() -> None:
    seen = visible()
    seen.declare(keyed().public)
    for name in keyed().public:
        seen.share(name)
    seen.forget()
    assert seen.admit(keyed(), 6) == 0


def test_own_blocks_are_bounded_and_stay_prefixes() -> None:
    own, rng = OwnBlocks(20), random.Random(3)
    prompts = [keyed(rng.randint(1, 9), first=1000 * n).public for n in range(40)]
    for names in prompts:
        own.add(A, names)
        assert own.leading(A, names) == len(names)
        assert own.leading(TenantId("b"), names) == 0
    young, old = own._tenants[A]
    assert len(young) <= 20
    assert len(old) <= 20
    assert own.leading(A, prompts[0]) == 0
    for names in prompts:
        n = own.leading(A, names)
        assert all(name in young or name in old for name in names[:n])


def test_all_tenants_together_are_bounded_too() -> None:
    own = OwnBlocks(10)
    for n in range(50):
        own.add(TenantId(f"t{n}"), keyed(9, first=1000 * n).public)
        assert len(own) <= 40
    assert len(own) == sum(len(young | old) for young, old in own._tenants.values()) == 36
    assert own.leading(TenantId("t49"), keyed(9, first=49_000).public) == 9
    assert own.leading(TenantId("t0"), keyed(9).public) == 0


def test_a_prompt_longer_than_what_is_remembered_is_remembered_as_far() -> None:
    own = OwnBlocks(4)
    own.add(A, keyed(9).public)
    assert own.leading(A, keyed(9).public) == 4
