"""Ten thousand random steps: the pool's invariants hold, and nobody finds what it may not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pool import check
from vllm.v1.core.kv_cache_utils import get_block_hash, maybe_convert_block_hash
from vllm.v1.request import RequestStatus

from safekv.bench.vllm.rig import Rig, RigPlan
from safekv.cache import CacheConfig
from safekv.types import Mode, Verdict, pack_tokens
from safekv.warden import WardenConfig

STEPS = 10_000
TENANTS = ("a", "b", "c", "d", None)
DECLARED = [1, 1, 1, 1]
PRIVATE = 40
"""Tokens from here on are private to the detector."""


def judge(block: Sequence[int]) -> Verdict:
    return Verdict.PRIVATE if max(block) >= PRIVATE else Verdict.SHAREABLE


class Oracle:
    """What each tenant may find, kept apart from everything that is tested."""

    def __init__(self) -> None:
        self.own: dict[str | None, set[tuple[int, ...]]] = {}
        self.clean: set[tuple[int, ...]] = set()

    def sent(self, tenant: str | None, tokens: Sequence[int]) -> None:
        if tenant is None:
            return
        for end in range(4, len(tokens) + 1, 4):
            self.own.setdefault(tenant, set()).add(tuple(tokens[:end]))

    def may_find(self, tenant: str | None, tokens: Sequence[int], hit: int) -> bool:
        own = self.own.get(tenant, set())
        clean = tenant is not None and all(
            max(tokens[n : n + 4]) < PRIVATE for n in range(0, hit, 4)
        )
        declared = list(tokens[:hit]) == DECLARED
        if clean or declared or not hit:
            return True
        # A private block is found only by who sent the very same text up to its end.
        return tuple(tokens[:hit]) in own


def prompt(rng: random.Random) -> list[int]:
    blocks = rng.choice((1, 2, 2, 3, 5, 8))
    tokens = [rng.randint(1, 2) for _ in range(4 * blocks)]
    if rng.random() < 0.5:
        at = rng.randrange(len(tokens))
        tokens[at] = PRIVATE + rng.randint(0, 1)
    return [*tokens, *(3 for _ in range(rng.randint(1, 4)))]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_invariants_hold_and_nobody_finds_anothers(asynchronous: bool) -> None:
    rng = random.Random(f"steps:{asynchronous}")
    rig = Rig(
        RigPlan(
            warden=WardenConfig(mode=Mode.SELECTIVE),
            block_tokens=4,
            blocks=60,
            prompt_tokens=128,
            batch_tokens=64,
            asynchronous=asynchronous,
            events=True,
            delay=2,
            index=CacheConfig(
                block_tokens=4, capacity_blocks=120, shared_blocks=20, overcommit=4.0
            ),
        ),
        judge,
    )
    events = Events(rig.pool)
    oracle, live, hits, shared = Oracle(), dict[str, Any](), 0, 0
    for step in range(STEPS):
        act = rng.random()
        if act < 0.35 and len(live) < 12:
            tenant, tokens = rng.choice(TENANTS), prompt(rng)
            request = rig.add(rig.request(tenant, tokens, max_tokens=rng.randint(1, 6)))
            live[request.request_id] = request, tenant, tokens
            oracle.sent(tenant, [*tokens, *[7] * 6])
        elif act < 0.38 and live:
            name = rng.choice(list(live))
            rig.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
            live.pop(name)
        elif act < 0.42:
            shared += rig.tick()
        elif act < 0.43:
            rig.book.declare([pack_tokens(DECLARED)] if rng.random() < 0.5 else [])
        elif live:
            rig.step()
        for name in [name for name in live if name not in rig.scheduler.requests]:
            request, tenant, tokens = live.pop(name)
            hit = rig.hits.pop(name, 0)
            hits += hit > 0
            assert oracle.may_find(tenant, tokens, hit), f"step {step}"
        if step % 50 == 0:
            check(rig)
    rig.run()
    rig.pool.take_events()
    check(rig)
    rig.book.warden.check()
    assert hits > 200
    assert shared > 50
    assert rig.pool.get_num_free_blocks() == 59
    copies = {
        maybe_convert_block_hash(get_block_hash(name)): len(found) if isinstance(found, dict) else 1
        for name, found in rig.pool.cached_block_hash_to_block._cache.items()
    }
    assert +events.held == copies


class Events:
    """What somebody who hears all KV events believes to be in the pool: copies of each name."""

    def __init__(self, pool: Any) -> None:
        self.held: Counter[Any] = Counter()
        self._take = pool.take_events
        pool.take_events = self

    def __call__(self) -> list[Any]:
        events: list[Any] = self._take()
        for event in events:
            change = 1 if type(event).__name__ == "BlockStored" else -1
            for name in event.block_hashes:
                self.held[name] += change
        return events
