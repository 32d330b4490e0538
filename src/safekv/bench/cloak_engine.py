"""What obfuscated blocks, and a vaulted disk, cost the embedded engine: beside one without.

Each side is an engine of its own in one process; each round asks all of them the same, in an order
that turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safekv.bench.stats import paired_ratio
from safekv.cache import CacheConfig, TiersConfig
from safekv.detect.config import DetectConfig
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import CloakProfile, CloakSettings, HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.tiers.files import Sealer
from safekv.errors import EngineError
from safekv.types import Mode, TenantId
from safekv.warden import WardenConfig

TENANT: Final = TenantId("bench")
PLAIN: Final = "plain"
DISK: Final = "vaulted_disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloakEnginePlan:
    """Each of `rounds` measures one miss, one hit and one batch on every side."""

    rounds: int = 10
    prompt_tokens: int = 513
    batch_requests: int = 4
    batch_prompt_tokens: int = 160
    batch_new_tokens: int = 12
    seed: int = 7


@dataclass(slots=True)
class Samples:
    """One side's measurements; the n-th of each list was taken beside the other sides' n-th."""

    ttft_miss_s: list[float] = field(default_factory=list)
    ttft_hit_s: list[float] = field(default_factory=list)
    throughput_tok_s: list[float] = field(default_factory=list)


async def run(
    model_id: str,
    source: Path | str,
    plan: CloakEnginePlan,
    disk: tuple[Path, Sealer],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Medians, and percent of the plain side's with intervals: above 100 is slower for times.

    The hit of the side `vaulted_disk` comes from a sealed file in the folder of `disk`, most
    likely still in the page cache, the others' from the device. Four models are in memory.
    Raises `EngineError` when a prompt was not found where it should be.
    """
    sides = {
        PLAIN: _engine(model_id, source, plan, CloakProfile.OFF, None),
        "stream": _engine(model_id, source, plan, CloakProfile.STREAM, None),
        "matrix": _engine(model_id, source, plan, CloakProfile.MATRIX, None),
        DISK: _engine(model_id, source, plan, CloakProfile.OFF, disk),
    }
    started = list[HFEngine]()
    try:
        for engine in sides.values():
            await engine.start()
            started.append(engine)
        samples = await _measure(sides, plan, progress)
    finally:
        for engine in started:
            await engine.stop(10.0)
    return {"plan": asdict(plan), **summary(samples)}


def summary(samples: dict[str, Samples]) -> dict[str, Any]:
    """Medians, and each side's percent of the plain one, paired by round."""
    names = tuple(asdict(samples[PLAIN]))
    percent = {
        side: {
            name: {
                bound: 100 * value
                for bound, value in asdict(
                    paired_ratio(getattr(one, name), getattr(samples[PLAIN], name))
                ).items()
            }
            for name in names
        }
        for side, one in samples.items()
        if side != PLAIN
    }
    medians = {
        side: {name: statistics.median(getattr(one, name)) for name in names}
        for side, one in samples.items()
    }
    raw = {side: asdict(one) for side, one in samples.items()}
    return {"median": medians, "percent_of_plain": percent, "samples": raw}


def _engine(
    model_id: str,
    source: Path | str,
    plan: CloakEnginePlan,
    profile: CloakProfile,
    disk: tuple[Path, Sealer] | None,
) -> HFEngine:
    block = CacheConfig().block_tokens
    blocks = -(-plan.prompt_tokens // block) + 1
    batch = plan.batch_requests * -(-(plan.batch_prompt_tokens + plan.batch_new_tokens) // block)
    tiers = TiersConfig()
    if disk is not None:
        # Host memory holds one prompt: the one before it lies on the disk.
        tiers = TiersConfig(
            host_blocks=blocks,
            disk_blocks=(blocks + batch) * (plan.rounds + 2),
            disk_path=disk[0],
            queue_blocks=4 * (blocks + batch),
            read_limit_s=60.0,
        )
    return HFEngine(
        model_id,
        source,
        engine=HFConfig(),
        cache=CacheConfig(capacity_blocks=4 * blocks + batch),
        warden=WardenConfig(mode=Mode.ISOLATED),
        detect=DetectConfig(),
        tiers=tiers,
        sealer=disk[1] if disk else None,
        cloak=CloakSettings(profile=profile),
    )


async def _measure(
    sides: dict[str, HFEngine], plan: CloakEnginePlan, progress: Callable[[int, int], None]
) -> dict[str, Samples]:
    rng = random.Random(plan.seed)  # noqa: S311 - prompts of a benchmark, not a secret
    samples = {side: Samples() for side in sides}
    order, before = list(sides), list[int]()
    for n in range(-1, plan.rounds):  # the first round warms up
        prompt = _drawn(rng, plan.prompt_tokens)
        batch = [_drawn(rng, plan.batch_prompt_tokens) for _ in range(plan.batch_requests)]
        order = order[1:] + order[:1]
        for side in order:
            took = await _round(sides[side], side == DISK, prompt, before, batch, plan)
            if n >= 0:
                samples[side].ttft_miss_s.append(took[0])
                samples[side].ttft_hit_s.append(took[1])
                samples[side].throughput_tok_s.append(took[2])
        before = prompt
        progress(n + 1, plan.rounds)
    return samples


def _drawn(rng: random.Random, n_tokens: int) -> list[int]:
    return [rng.randrange(100, 40_000) for _ in range(n_tokens)]


async def _round(
    engine: HFEngine,
    from_disk: bool,
    prompt: list[int],
    before: list[int],
    batch: list[list[int]],
    plan: CloakEnginePlan,
) -> tuple[float, float, float]:
    """Seconds to the first token of a miss and of a hit, and tokens per second of a batch."""
    hit = (plan.prompt_tokens - 1) // CacheConfig().block_tokens * CacheConfig().block_tokens
    miss_s = await _ttft_s(engine, prompt, 0)
    hit_s = 0.0
    if not from_disk:
        hit_s = await _ttft_s(engine, prompt, hit)
        await engine.lapse(TENANT)
    else:
        await engine.lapse(TENANT)
        if before:
            hit_s = await _ttft_s(engine, before, hit)
            await engine.lapse(TENANT)
    began = time.perf_counter()
    await asyncio.gather(*(_ttft_s(engine, one, 0, plan.batch_new_tokens) for one in batch))
    total_s = time.perf_counter() - began
    await engine.lapse(TENANT)
    tokens = sum(map(len, batch)) + plan.batch_new_tokens * len(batch)
    return miss_s, hit_s, tokens / total_s


async def _ttft_s(
    engine: HFEngine, prompt: list[int], cached_tokens: int, new_tokens: int = 1
) -> float:
    """Seconds to the first token. Waits before until copies to disk are done."""
    while engine.tiers_backlog():  # noqa: ASYNC110 - threads do not set asyncio events
        await asyncio.sleep(0.01)
    request = GenerationRequest(
        tenant=TENANT, token_ids=prompt, max_tokens=new_tokens, temperature=0
    )
    began, first_s, found = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first_s = first_s or time.perf_counter() - began
        found = chunk.cached_tokens
    if found != cached_tokens:
        raise EngineError(f"{found} tokens were found instead of {cached_tokens}")
    return first_s
