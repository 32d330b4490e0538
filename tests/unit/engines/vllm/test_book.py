"""The index: prompts in, names of shared and private blocks out, always prefix-closed."""

from __future__ import annotations

import random

import pytest

from safekv.cache import CacheConfig
from safekv.engines.vllm.index.book import IndexBook
from safekv.engines.vllm.index.wire import Kind, Run, unpack_names
from safekv.engines.vllm.keys import ROOT, BlockKeys
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, TenantId, Verdict, pack_tokens
from safekv.warden import WardenConfig

KEYS = BlockKeys(b"s" * 32)
TENANTS = [TenantId(one) for one in ("a", "b", "c")]


class Heard:
    """Applies frames block by block, and checks after each that what is shared is prefix-closed."""

    def __init__(self) -> None:
        self.shared: set[bytes] = set()
        self.parents: dict[bytes, bytes] = {}
        self.frames: list[Kind] = []
        self.declared: list[bytes] = []
        self.holders: dict[bytes, tuple[bytes, ...]] = {}

    def __call__(self, kind: Kind, payload: bytes) -> None:
        self.frames.append(kind)
        if kind is Kind.DECLARED:
            self.declared = unpack_names(payload)
        if kind not in (Kind.SHARED, Kind.PRIVATE):
            return
        run = Run(payload)
        order = range(len(run)) if kind is Kind.SHARED else reversed(range(len(run)))
        for n in order:
            block = run.block(n)
            self.parents[block.public] = block.parent
            self.holders[block.public] = block.private
            if kind is Kind.SHARED:
                assert block.parent == ROOT or block.parent in self.shared
                assert block.public not in self.shared
                self.shared.add(block.public)
            else:
                self.shared.remove(block.public)
                assert not [c for c in self.shared if self.parents[c] == block.public]


def book(heard: Heard, mode: Mode = Mode.SELECTIVE, **more: int) -> IndexBook:
    sizes = {"capacity_blocks": 400, "shared_blocks": 200, "quota_blocks": 60, **more}
    cache = CacheConfig(block_tokens=4, **sizes)  # type: ignore[arg-type]
    return IndexBook(WardenConfig(mode=mode), cache, SafeguardConfig(), KEYS, heard)


def clear(index: IndexBook, tenant: TenantId, tokens: list[int]) -> None:
    job = index.computed(tenant, pack_tokens(tokens))
    if job is not None:
        index.warden.settle(job, [Verdict.SHAREABLE] * job.full_blocks)


def test_what_is_promoted_is_said_with_its_holders_names() -> None:
    heard = Heard()
    index = book(heard)
    text = list(range(13))
    for tenant in TENANTS[:2]:
        clear(index, tenant, text)
    assert index.tick() == 3
    names = KEYS.chain(ROOT, pack_tokens(text), 4)
    assert heard.shared == set(names)
    for n, name in enumerate(names):
        assert heard.holders[name] == tuple(
            KEYS.private(KEYS.tenant(tenant), names)[n] for tenant in TENANTS[:2]
        )
    assert heard.frames[-1] is Kind.TICK


def test_a_stricter_mode_takes_all_back() -> None:
    heard = Heard()
    index = book(heard)
    clear(index, TENANTS[0], list(range(40)))
    index.tick()
    assert heard.shared
    index.warden.set_mode(Mode.ISOLATED)
    assert not heard.shared


def test_long_runs_travel_in_several_frames() -> None:
    heard = Heard()
    index = book(heard, capacity_blocks=4000, shared_blocks=2000, quota_blocks=1500)
    clear(index, TENANTS[0], list(range(4 * 700)))
    assert index.tick() == 700
    assert heard.frames.count(Kind.SHARED) == 3
    index.warden.set_mode(Mode.ISOLATED)
    assert heard.frames.count(Kind.PRIVATE) == 3
    assert not heard.shared


def test_what_does_not_fit_the_quota_stays_private_and_leaves_nothing() -> None:
    heard = Heard()
    index = book(heard)
    assert index.computed(TENANTS[0], pack_tokens(range(4 * 61))) is None
    assert len(index) == 0
    index.tick()
    assert not heard.shared


def test_declared_blocks_are_named() -> None:
    heard = Heard()
    index = book(heard, Mode.DECLARED)
    text = pack_tokens(range(10))
    index.declare([text])
    assert heard.declared == sorted(KEYS.chain(ROOT, text, 4))
    assert index.computed(TENANTS[0], pack_tokens(range(30))) is None
    index.tick()
    assert heard.shared == set(KEYS.chain(ROOT, text, 4))


@pytest.mark.parametrize("seed", range(5))
def test_random_prompts_keep_the_frames_prefix_closed_and_the_names_bounded(seed: int) -> None:
    rng, heard = random.Random(seed), Heard()
    index = book(heard, capacity_blocks=120, shared_blocks=30, quota_blocks=30)
    known: dict[tuple[int, ...], bytes] = {}
    for _ in range(400):
        blocks = rng.randint(1, 8)
        tokens = [t for _ in range(blocks) for t in ((rng.randint(1, 2), 3, 3, 3))]
        for n, name in enumerate(KEYS.chain(ROOT, pack_tokens(tokens), 4)):
            known[tuple(tokens[: 4 * n + 4])] = name
        clear(index, rng.choice(TENANTS), [*tokens, 9])
        if rng.random() < 0.3:
            index.tick()
        if rng.random() < 0.05:
            index.declare([pack_tokens(tokens)] if rng.random() < 0.5 else [])
        assert len(index) == index.warden.stored_blocks() <= 120
        assert len(index) + len(index._free) == index._next
    for text, name in known.items():
        assert (name in heard.shared) == (
            index.warden.shared_blocks_of(pack_tokens(text)) == len(text) // 4
        )
    index.warden.check()
