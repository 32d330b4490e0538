"""What masked release hides, and what it costs: hits and misses of one probe, timed by its sender.

Three engines in turns, one after the other in each round: `isolated`, `selective` with immediate
release, and `selective` with masked release. The victim's prompt has become shared in both of the
latter; the probe is that prompt (a hit) or an equally long one that nobody sent (a miss).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safekv.attack.timing import auc, bootstrap_interval
from safekv.audit.intervals import clopper_pearson
from safekv.bench.stats import ks, paired_ratio
from safekv.cache import CacheConfig
from safekv.detect.base import Document, Finding
from safekv.detect.config import DetectConfig
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.errors import EngineError
from safekv.types import Mode, Release, TenantId, Verdict, pack_tokens
from safekv.warden import WardenConfig

VICTIM: Final = TenantId("victim")
SIDES: Final = {
    "isolated": WardenConfig(mode=Mode.ISOLATED),
    "immediate": WardenConfig(epoch_s=0.05),
    "masked": WardenConfig(epoch_s=0.05, release=Release.MASKED),
}
SETTLE_S: Final = 10.0
READERS: Final = 8


class EverythingClean:
    """A detector that clears all: what is measured is release, not detection."""

    name = "everything-clean"

    def judge(self, document: Document) -> list[Finding]:
        """One clean finding per block."""
        return [Finding(Verdict.SHAREABLE, "clean")] * len(document.block_ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPlan:
    """Each of `rounds` probes one hit and one miss on each side, with `new_tokens` of answer."""

    rounds: int = 20
    prompt_tokens: int = 257
    new_tokens: int = 4
    seed: int = 23


@dataclass(slots=True)
class Samples:
    """What the prober saw of one side, in seconds; the n-th hit beside the n-th miss."""

    hit_ttft_s: list[float] = field(default_factory=list)
    miss_ttft_s: list[float] = field(default_factory=list)
    hit_total_s: list[float] = field(default_factory=list)
    miss_total_s: list[float] = field(default_factory=list)


async def run(
    model_id: str,
    source: Path | str,
    plan: MaskedPlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure all sides and return what tells hits from misses, beta and the costs, as JSON types.

    Raises `EngineError` when a hit was none, so that a server which shares nothing cannot pass.
    """
    samples: dict[str, Samples] = {}
    late = (0, 0)
    total = len(SIDES) * (plan.rounds + 1)
    engines = {name: await _start(model_id, source, config) for name, config in SIDES.items()}
    try:
        samples = {name: Samples() for name in engines}
        for n in range(plan.rounds + 1):
            order = list(engines) if n % 2 else list(reversed(engines))
            for at, name in enumerate(order):
                probes = Samples() if n == 0 else samples[name]  # the first round warms up
                await _round(engines[name], name, plan, random.Random(f"{plan.seed}:{n}"), probes)  # noqa: S311
                progress(n * len(engines) + at + 1, total)
        schedule = engines["masked"].warden.schedule
        if schedule is not None:
            counts = schedule.counts()
            late = counts.late, counts.answers
        rates = {
            name: await _throughput(engine, plan, random.Random(plan.seed))  # noqa: S311
            for name, engine in engines.items()
        }
    finally:
        for engine in engines.values():
            await engine.stop(5.0)
    return {"plan": asdict(plan), **_findings(samples, late, rates)}


async def _start(model_id: str, source: Path | str, config: WardenConfig) -> HFEngine:
    detector = EverythingClean() if config.mode is Mode.SELECTIVE else None
    engine = HFEngine(
        model_id,
        source,
        engine=HFConfig(),
        cache=CacheConfig(capacity_blocks=1024),
        warden=config,
        detect=DetectConfig(process=False),
        detector=detector,
    )
    engine.open([VICTIM])
    await engine.start()
    return engine


async def _round(
    engine: HFEngine, name: str, plan: MaskedPlan, rng: random.Random, samples: Samples
) -> None:
    """The victim sends a prompt and it becomes shared; then a fresh tenant probes."""
    shared, other = (_prompt(rng, plan.prompt_tokens) for _ in range(2))
    prober = TenantId(f"prober-{rng.randrange(8)}")
    await _ask(engine, VICTIM, shared, 1)
    if name != "isolated":
        await until_shared(engine, shared)
    await engine.lapse(prober)
    probes = [("hit", shared), ("miss", other)]
    rng.shuffle(probes)
    for kind, prompt in probes:
        first_s, total_s, cached = await _ask(engine, prober, prompt, plan.new_tokens)
        if cached:
            raise EngineError(f"{cached} tokens of a prompt that was never sent were told of")
        getattr(samples, f"{kind}_ttft_s").append(first_s)
        getattr(samples, f"{kind}_total_s").append(total_s)


async def until_shared(engine: HFEngine, prompt: Sequence[int], *, tick: bool = False) -> None:
    """Wait until all of `prompt` that can be is shared; with `tick` end epochs until it is.

    Raises `EngineError` after ten seconds.
    """
    tokens, full = pack_tokens(prompt), (len(prompt) - 1) // engine.warden.block_tokens
    until = time.monotonic() + SETTLE_S
    while engine.warden.shared_blocks_of(tokens) < full:
        if time.monotonic() > until:
            raise EngineError("the victim's prompt did not become shared", "raise the time limit")
        await asyncio.sleep(0.02)
        if tick:
            engine.warden.tick()


async def _ask(
    engine: HFEngine, tenant: TenantId, prompt: Sequence[int], new_tokens: int
) -> tuple[float, float, int]:
    """Seconds to the first and the last token, and how many tokens were told to be cached."""
    request = GenerationRequest(
        tenant=tenant, token_ids=prompt, max_tokens=new_tokens, temperature=0
    )
    began, first_s, cached = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first_s = first_s or time.perf_counter() - began
        cached = chunk.cached_tokens
    return first_s, time.perf_counter() - began, cached


async def _throughput(engine: HFEngine, plan: MaskedPlan, rng: random.Random) -> float:
    """Prompt tokens per second while the engine has work: many tenants send one known prompt."""
    shared = _prompt(rng, plan.prompt_tokens)
    await _ask(engine, VICTIM, shared, 1)
    if engine.warden.config.mode is Mode.SELECTIVE:
        await until_shared(engine, shared)
    tenants = [TenantId(f"reader-{n}") for n in range(READERS)]
    began = time.perf_counter()
    asked = [asyncio.create_task(_ask(engine, tenant, shared, 1)) for tenant in tenants]
    scheduler = engine.loop.batch_processor.scheduler
    await asyncio.sleep(0.01)
    while scheduler.has_pending_requests() or not engine.loop.input_queue.empty():  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    worked_s = time.perf_counter() - began
    await asyncio.gather(*asked)
    return len(tenants) * len(shared) / worked_s


def _prompt(rng: random.Random, n_tokens: int) -> list[int]:
    return [rng.randrange(100, 40_000) for _ in range(n_tokens)]


def _findings(
    samples: dict[str, Samples], late: tuple[int, int], rates: dict[str, float]
) -> dict[str, Any]:
    told = {}
    for name, one in samples.items():
        distance, p = ks(one.hit_ttft_s, one.miss_ttft_s)
        low, high = bootstrap_interval(one.hit_ttft_s, one.miss_ttft_s)
        told[name] = {
            "auc_ttft": auc(one.hit_ttft_s, one.miss_ttft_s),
            "auc_ttft_low": low,
            "auc_ttft_high": high,
            "ks_ttft": distance,
            "ks_p": p,
            "auc_total": auc(one.hit_total_s, one.miss_total_s),
            "median_hit_ttft_s": statistics.median(one.hit_ttft_s),
            "median_miss_ttft_s": statistics.median(one.miss_ttft_s),
        }
    misses, base = samples["masked"].miss_ttft_s, samples["isolated"].miss_ttft_s
    return {
        "told": told,
        "beta": asdict(clopper_pearson(*late)) if late[1] else None,
        "ttft_cost": asdict(paired_ratio(misses, base)),
        "throughput_gain": {name: rate / rates["isolated"] for name, rate in rates.items()},
        "samples": {name: asdict(one) for name, one in samples.items()},
    }
