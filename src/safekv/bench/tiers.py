"""Time to first token of one prompt, by where its blocks lie."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safekv.bench.stats import paired_ratio
from safekv.cache import CacheConfig, TiersConfig
from safekv.detect.config import DetectConfig
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.tiers.files import Sealer
from safekv.errors import EngineError
from safekv.types import Mode, TenantId
from safekv.warden import WardenConfig

TENANT = TenantId("bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersPlan:
    """Each of `rounds` measures one miss and one hit in each tier, one after the other."""

    rounds: int = 10
    prompt_tokens: int = 513
    seed: int = 11


async def run(
    model_id: str,
    source: Path | str,
    plan: TiersPlan,
    *,
    disk: tuple[Path, Sealer] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure and return medians, ratios to a miss, and raw samples, in seconds.

    Host memory has room for one prompt, so that each round pushes the prompt of the round before
    to `disk`, a directory and what seals its files, if there is one. Raises `EngineError` when a
    prompt was not found where it should be.
    """
    block = CacheConfig().block_tokens
    blocks = -(-plan.prompt_tokens // block) + 1
    config = TiersConfig(
        host_blocks=blocks,
        disk_blocks=blocks * (plan.rounds + 2) if disk else 0,
        disk_path=disk[0] if disk else None,
        queue_blocks=4 * blocks,
        read_limit_s=60.0,
    )
    engine = HFEngine(
        model_id,
        source,
        engine=HFConfig(),
        cache=CacheConfig(capacity_blocks=4 * blocks),
        warden=WardenConfig(mode=Mode.ISOLATED),
        detect=DetectConfig(),
        tiers=config,
        sealer=disk[1] if disk else None,
    )
    await engine.start()
    try:
        samples = await _measure(engine, plan, disk is not None, progress)
    finally:
        await engine.stop(10.0)
    medians = {name: statistics.median(times) for name, times in samples.items()}
    ratios = {name: asdict(paired_ratio(times, samples["miss"])) for name, times in samples.items()}
    return {
        "plan": asdict(plan),
        "median_ttft_s": medians,
        "ratio_to_miss": ratios,
        "samples_s": samples,
    }


async def _measure(
    engine: HFEngine, plan: TiersPlan, disk: bool, progress: Callable[[int, int], None]
) -> dict[str, list[float]]:
    rng = random.Random(plan.seed)  # noqa: S311 - prompts of a benchmark, not a secret
    names = ("miss", "device", "host", *(("disk",) if disk else ()))
    samples: dict[str, list[float]] = {name: [] for name in names}
    hit = (plan.prompt_tokens - 1) // CacheConfig().block_tokens * CacheConfig().block_tokens
    before: list[int] = []
    for n in range(plan.rounds + 1):
        prompt = [rng.randrange(100, 40_000) for _ in range(plan.prompt_tokens)]
        times = {"miss": await _ttft_s(engine, prompt, 0)}
        times["device"] = await _ttft_s(engine, prompt, hit)
        await engine.lapse(TENANT)
        times["host"] = await _ttft_s(engine, prompt, hit)
        await engine.lapse(TENANT)
        if disk and before:
            times["disk"] = await _ttft_s(engine, before, hit)
            await engine.lapse(TENANT)
        before = prompt
        if n:  # the first round warms up
            for name, seconds in times.items():
                samples[name].append(seconds)
            progress(n, plan.rounds)
    return samples


async def _ttft_s(engine: HFEngine, prompt: list[int], cached_tokens: int) -> float:
    """Seconds to the first token. Waits before until copies to disk are done."""
    while engine.tiers_backlog():  # noqa: ASYNC110 - threads do not set asyncio events
        await asyncio.sleep(0.01)
    request = GenerationRequest(tenant=TENANT, token_ids=prompt, max_tokens=1, temperature=0)
    began, first_s, found = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first_s = first_s or time.perf_counter() - began
        found = chunk.cached_tokens
    if found != cached_tokens:
        raise EngineError(f"{found} tokens were found instead of {cached_tokens}")
    return first_s
