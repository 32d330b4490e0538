"""The embedded engine with safekv's cache against the same engine with transformers' own.

One model object, two generation loops that differ only in the cache; each round runs both,
in alternating order, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput

from safekv.bench.stats import paired_ratio
from safekv.cache import CacheConfig
from safekv.detect.base import Detector
from safekv.detect.config import DetectConfig
from safekv.engines.hf.admission import Admission
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.loop import SelectiveLoop, batching_config, generation_config
from safekv.engines.hf.sampling import processors, sampling_kwargs
from safekv.types import Mode, TenantId
from safekv.warden import WardenConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """How much is measured: `rounds` of one miss, `hits` hits and one batch for each side."""

    rounds: int = 20
    hits: int = 8
    prompt_tokens: int = 513
    batch_requests: int = 4
    batch_prompt_tokens: int = 160
    batch_new_tokens: int = 12
    seed: int = 7


class Side(Protocol):
    """One of the two loops, driven the same way."""

    name: str

    def submit(
        self, tokens: list[int], new_tokens: int, listener: Callable[[GenerationOutput], None]
    ) -> None: ...


class Ours:
    """The loop with safekv's cache, every request from one tenant."""

    name = "safekv"

    def __init__(self, loop: SelectiveLoop) -> None:
        self._loop = loop
        self._n = 0

    def submit(
        self, tokens: list[int], new_tokens: int, listener: Callable[[GenerationOutput], None]
    ) -> None:
        self._n += 1
        request_id = f"ours-{self._n}"
        self._loop.admissions.by_id[request_id] = Admission(TenantId("bench"), len(tokens))
        self._loop.router.open(request_id, listener)
        _add(self._loop, request_id, tokens, new_tokens)


class Stock:
    """The loop with transformers' own prefix cache."""

    name = "transformers"

    def __init__(self, manager: ContinuousBatchingManager) -> None:
        self._manager = manager
        self._n = 0

    def submit(
        self, tokens: list[int], new_tokens: int, listener: Callable[[GenerationOutput], None]
    ) -> None:
        self._n += 1
        request_id = f"stock-{self._n}"
        self._manager.register_result_handler(request_id, listener)
        _add(self._manager, request_id, tokens, new_tokens)


def _add(
    manager: ContinuousBatchingManager, request_id: str, tokens: list[int], new_tokens: int
) -> None:
    manager.add_request(
        tokens,
        request_id=request_id,
        max_new_tokens=new_tokens,
        streaming=True,
        eos_token_id=-1,
        **sampling_kwargs(0, 1),
    )


async def _run(side: Side, prompts: Sequence[list[int]], new_tokens: int) -> tuple[float, float]:
    """Send `prompts` at once; seconds to the first token of any, and to the last of all."""
    done, left = asyncio.Event(), len(prompts)
    first_s: list[float] = []

    def listener(output: GenerationOutput) -> None:
        nonlocal left
        if not first_s:
            first_s.append(time.perf_counter() - began)
        if output.is_finished():
            left -= 1
            if left == 0:
                done.set()

    began = time.perf_counter()
    for prompt in prompts:
        side.submit(list(prompt), new_tokens, listener)
    await done.wait()
    return first_s[0], time.perf_counter() - began


@dataclass(slots=True)
class Samples:
    """Raw measurements of one side; the n-th of each list was taken beside the peer's n-th."""

    ttft_miss_s: list[float] = field(default_factory=list)
    ttft_hit_s: list[float] = field(default_factory=list)
    throughput_tok_s: list[float] = field(default_factory=list)


async def _round(
    sides: Sequence[Side],
    samples: dict[str, Samples],
    plan: EnginePlan,
    prompt: list[int],
    batch: list[list[int]],
) -> None:
    """One miss, `plan.hits` hits and one batch on each side, turn by turn."""
    for side in sides:
        miss_s, _ = await _run(side, [prompt], 1)
        samples[side.name].ttft_miss_s.append(miss_s)
    for turn in range(plan.hits):
        for side in sides if turn % 2 else reversed(sides):
            hit_s, _ = await _run(side, [prompt], 1)
            samples[side.name].ttft_hit_s.append(hit_s)
    tokens = sum(len(p) for p in batch) + plan.batch_new_tokens * len(batch)
    for side in sides:
        _, total_s = await _run(side, batch, plan.batch_new_tokens)
        samples[side.name].throughput_tok_s.append(tokens / total_s)


async def _measure(
    sides: list[Side], vocabulary: int, plan: EnginePlan, progress: Callable[[int, int], None]
) -> dict[str, Samples]:
    rng = random.Random(plan.seed)  # noqa: S311 - prompts of a benchmark, not a secret

    def draw(n: int) -> list[int]:
        return [rng.randrange(100, vocabulary) for _ in range(n)]

    def fresh() -> dict[str, Samples]:
        return {side.name: Samples() for side in sides}

    samples = fresh()
    await _round(sides, fresh(), plan, draw(plan.prompt_tokens), [draw(64)])  # does not count
    for n in range(plan.rounds):
        common = draw(plan.batch_prompt_tokens // 2)
        batch = [
            common + draw(plan.batch_prompt_tokens - len(common))
            for _ in range(plan.batch_requests)
        ]
        order = sides if n % 2 == 0 else sides[::-1]
        await _round(order, samples, plan, draw(plan.prompt_tokens), batch)
        progress(n + 1, plan.rounds)
    return samples


def _summary(samples: dict[str, Samples], ours: str, peer: str) -> dict[str, Any]:
    ratios = {
        name: asdict(paired_ratio(getattr(samples[ours], name), getattr(samples[peer], name)))
        for name in ("ttft_miss_s", "ttft_hit_s", "throughput_tok_s")
    }
    medians = {
        side: {name: statistics.median(values) for name, values in asdict(one).items()}
        for side, one in samples.items()
    }
    return {"median": medians, "ratio_safekv_to_transformers": ratios}


async def run(
    model_id: str,
    source: Path | str,
    detector: Detector,
    plan: EnginePlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure both loops and return medians, paired ratios with intervals, and raw samples.

    The safekv side runs in `selective` mode with its detector, so its whole cost counts.
    Takes about `rounds` × 12 s on two CPU cores. Raises `ModelError` like the engine.
    """
    cache, settings = CacheConfig(capacity_blocks=1024), HFConfig()
    engine = HFEngine(
        model_id,
        source,
        engine=settings,
        cache=cache,
        warden=WardenConfig(mode=Mode.SELECTIVE),
        detect=DetectConfig(),
        detector=detector,
    )
    await engine.start()
    model = engine.loop.model
    stock = ContinuousBatchingManager(
        model, generation_config(model), batching_config(cache, settings)
    )
    stock.logit_processor = processors()
    stock.start()
    try:
        sides: list[Side] = [Ours(engine.loop), Stock(stock)]
        samples = await _measure(sides, model.config.vocab_size, plan, progress)
        engine.check()
    finally:
        await asyncio.to_thread(stock.stop, True, 30.0)
        await engine.stop(10.0)
    return {
        "plan": asdict(plan),
        **_summary(samples, "safekv", "transformers"),
        "samples": {side: asdict(one) for side, one in samples.items()},
    }
