"""Do greedy answers change when a prefix is found instead of computed? (leak L19)

Equal tokens computed in another batch can differ in the last bits of a float, so an answer might
tell a hit from a miss without any clock. Each prompt is sent by a tenant that computes it, by one
that computes it again, and by one that finds it shared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from safekv.audit.intervals import clopper_pearson
from safekv.bench.masked import EverythingClean, until_shared
from safekv.cache import CacheConfig
from safekv.detect.config import DetectConfig
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.types import Mode, TenantId
from safekv.warden import WardenConfig

SENDER, AGAIN, READER = TenantId("sender"), TenantId("again"), TenantId("reader")
DTYPES: Final = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPlan:
    """`prompts` of random tokens each way, in each of `dtypes`."""

    prompts: int = 20
    prompt_tokens: int = 161
    new_tokens: int = 32
    dtypes: tuple[str, ...] = DTYPES
    device: str = "auto"
    seed: int = 31


async def run(
    model_id: str,
    source: Path | str,
    plan: DriftPlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """How many answers differ, hit against miss and miss against miss, as JSON types.

    The second is the control: what differs there too tells nothing of hits. Raises `EngineError`
    when a prompt did not become shared.
    """
    found: dict[str, Any] = {}
    total = len(plan.dtypes) * plan.prompts
    for at, dtype in enumerate(plan.dtypes):
        report = partial(_report, progress, at * plan.prompts, total)
        rows = await _measure(model_id, source, plan, dtype, report)
        found[dtype] = {"hit": _differing(rows, 2), "miss_again": _differing(rows, 1)}
    return {"plan": asdict(plan), "differing": found}


def _report(progress: Callable[[int, int], None], before: int, total: int, n: int) -> None:
    progress(before + n, total)


async def _measure(
    model_id: str, source: Path | str, plan: DriftPlan, dtype: str, report: Callable[[int], None]
) -> list[tuple[str, str, str]]:
    """The three answers to each prompt."""
    engine = HFEngine(
        model_id,
        source,
        engine=HFConfig(device=plan.device, dtype=dtype),
        cache=CacheConfig(capacity_blocks=1024),
        warden=WardenConfig(mode=Mode.SELECTIVE, epoch_s=3600.0),
        detect=DetectConfig(process=False),
        detector=EverythingClean(),
    )
    engine.open([SENDER, AGAIN, READER])
    await engine.start()
    rng, rows = random.Random(plan.seed), list[tuple[str, str, str]]()  # noqa: S311
    try:
        for n in range(plan.prompts):
            prompt = [rng.randrange(100, 40_000) for _ in range(plan.prompt_tokens)]
            answers = [await _answer(engine, who, prompt, plan) for who in (SENDER, AGAIN)]
            # Epochs end here and nowhere else, so that the second answer was computed too.
            await until_shared(engine, prompt, tick=True)
            answers.append(await _answer(engine, READER, prompt, plan))
            rows.append((answers[0], answers[1], answers[2]))
            for tenant in (SENDER, AGAIN, READER):
                await engine.lapse(tenant)
            report(n + 1)
    finally:
        await engine.stop(5.0)
    return rows


async def _answer(engine: HFEngine, tenant: TenantId, prompt: list[int], plan: DriftPlan) -> str:
    request = GenerationRequest(
        tenant=tenant, token_ids=prompt, max_tokens=plan.new_tokens, temperature=0
    )
    return "".join([chunk.text async for chunk in engine.generate(request)])


def _differing(rows: list[tuple[str, str, str]], other: int) -> dict[str, Any]:
    pairs = [(row[0], row[other]) for row in rows]
    differing = [(a, b) for a, b in pairs if a != b]
    agreed = [
        sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(a, b, strict=False)))
        for a, b in differing
    ]
    return {
        **asdict(clopper_pearson(len(differing), len(pairs))),
        "prompts": len(pairs),
        "first_difference_character": min(agreed, default=None),
    }
