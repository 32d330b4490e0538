"""With one tenant, vLLM with safekv does what vLLM alone does, block by block."""

from __future__ import annotations

import random
from typing import Any

import pytest

from safekv.bench.vllm.rig import Rig, RigPlan
from safekv.types import Mode
from safekv.warden import WardenConfig


def story(rig: Rig, seed: int) -> list[Any]:
    """What a tenant's random requests find, which blocks they get, and what is free at the end."""
    rng, seen = random.Random(seed), list[Any]()
    texts = [[rng.randint(1, 3) for _ in range(rng.randint(3, 60))] for _ in range(12)]
    for _ in range(150):
        text = [*rng.choice(texts), *rng.choice(texts)][: rng.randint(2, 90)]
        request = rig.add(rig.request("one", text, max_tokens=rng.randint(1, 9)))
        for _ in range(rng.randint(0, 4)):
            if rig.scheduler.has_unfinished_requests():
                seen.append(sorted((k, v.num_cached_tokens) for k, v in rig.step().items()))
        blocks = rig.scheduler.kv_cache_manager.get_blocks(request.request_id).blocks
        seen.append([block.block_id for group in blocks for block in group])
        if rng.random() < 0.2:
            seen.append(sorted((k, v.num_cached_tokens) for k, v in rig.run().items()))
    rig.run()
    seen.append([block.block_id for block in rig.pool.free_block_queue.get_all_free_blocks()])
    seen.append(len(rig.pool.cached_block_hash_to_block))
    return seen


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
@pytest.mark.parametrize("blocks", [40, 400])
def test_one_tenant_finds_what_it_finds_in_stock_vllm(
    mode: Mode, asynchronous: bool, blocks: int
) -> None:
    for seed in range(3):
        plans = [
            RigPlan(
                warden=WardenConfig(mode=mode),
                block_tokens=4,
                blocks=blocks,
                prompt_tokens=128,
                batch_tokens=64,
                asynchronous=asynchronous,
                stock=stock,
            )
            for stock in (True, False)
        ]
        stock, ours = (story(Rig(plan), seed) for plan in plans)
        assert stock == ours
        assert any(step and step[0] and isinstance(step[0], tuple) for step in stock)
