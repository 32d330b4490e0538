"""Time to first token with the detector saturated, against the same engine with it idle."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safekv.bench.stats import paired_ratio
from safekv.cache import CacheConfig
from safekv.detect.adversarial import PROSE
from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.process import DetectorProcess
from safekv.detect.worker import DetectionWorker
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.errors import DetectorError
from safekv.types import Mode, TenantId, Verdict
from safekv.warden import WardenConfig

TENANT = TenantId("bench")
FULL_PROMPTS = 32
"""Prompts that wait for the detector whenever it is saturated."""

PROMPT_CHARACTERS = 4_000
QUIET_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPlan:
    """Each of `rounds` measures one miss and `hits` hits with the detector idle, and saturated."""

    rounds: int = 20
    hits: int = 4
    prompt_tokens: int = 513
    seed: int = 13


class Load:
    """A detector in its own process, kept busy or idle; counts what it judged.

    Every prompt is another, so that none is remembered. Mutable state: worker, counts and
    whether it is saturated.
    """

    def __init__(self, config: DetectConfig) -> None:
        self._worker: DetectionWorker[Document] = DetectionWorker(
            DetectorProcess(config, self._failed),
            lambda document: document,
            self._settled,
            lambda: None,
            tenant_of=lambda _: TENANT,
            epoch_s=3600.0,
            config=config,
        )
        self._filling = threading.Lock()
        self._made = 0
        self._saturated = False
        self.judged = 0
        self.failures: list[str] = []

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()

    def waiting(self) -> int:
        return self._worker.backlog()

    @contextmanager
    def saturated(self) -> Iterator[None]:
        """Have `FULL_PROMPTS` wait, and another for each that is judged: no timer can be late."""
        self._saturated = True
        self._fill()
        try:
            yield
        finally:
            self._saturated = False

    def _fill(self) -> None:
        with self._filling:  # the worker's thread and the one that measures
            for _ in range(FULL_PROMPTS - self._worker.backlog()):
                self._made += 1
                text = f"{self._made}. {PROSE * (1 + PROMPT_CHARACTERS // len(PROSE))}"
                ends = tuple(range(250, PROMPT_CHARACTERS, 250))
                self._worker.submit(Document(text[:PROMPT_CHARACTERS], ends))

    async def until_idle(self) -> None:
        """Wait until all was judged, what the process has in hand too. Raises `DetectorError`."""
        await self.until_judged(self._made - self.judged)

    async def until_judged(self, count: int) -> None:
        """Wait until `count` prompts more were judged. Raises `DetectorError` when none is."""
        goal, deadline_s = self.judged + count, time.monotonic() + QUIET_S
        while self.judged < goal:
            if time.monotonic() > deadline_s:
                raise DetectorError("the detector judges nothing")
            await asyncio.sleep(0.01)

    def _settled(self, job: Document, verdicts: Sequence[Verdict]) -> None:
        self.judged += 1
        if self._saturated:
            self._fill()

    def _failed(self, stage: str, reason: str) -> None:
        self.failures.append(f"{stage}: {reason}")


async def run(
    model_id: str,
    source: Path | str,
    config: DetectConfig,
    plan: DetectorPlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure and return medians, paired ratios (saturated / idle) and raw samples, in seconds.

    The engine itself detects nothing (`isolated`), so that idle is idle; the load has the
    stages of `config`, in the process that `safekv serve` starts. Raises `DetectorError` when
    the load failed or ran dry.
    """
    engine = HFEngine(
        model_id,
        source,
        engine=HFConfig(),
        cache=CacheConfig(capacity_blocks=1024),
        warden=WardenConfig(mode=Mode.ISOLATED),
        detect=config,
    )
    load = Load(config)
    await asyncio.to_thread(load.start)
    await engine.start()
    try:
        samples, judged = await _measure(engine, load, plan, progress)
    finally:
        await engine.stop(10.0)
        await asyncio.to_thread(load.stop)
    if load.failures:
        raise DetectorError(f"the load failed: {load.failures[0]}")
    return {
        "plan": asdict(plan),
        "stages": list(config.stages),
        "judged_prompts": judged,
        "median_ttft_s": {
            arm: {kind: statistics.median(times) for kind, times in each.items()}
            for arm, each in samples.items()
        },
        "ratio_saturated_to_idle": {
            kind: asdict(paired_ratio(samples["saturated"][kind], samples["idle"][kind]))
            for kind in ("miss", "hit")
        },
        "samples_s": samples,
    }


async def _measure(
    engine: HFEngine, load: Load, plan: DetectorPlan, progress: Callable[[int, int], None]
) -> tuple[dict[str, dict[str, list[float]]], int]:
    rng = random.Random(plan.seed)  # noqa: S311 - prompts of a benchmark, not a secret
    samples: dict[str, dict[str, list[float]]] = {
        arm: {"miss": [], "hit": []} for arm in ("idle", "saturated")
    }
    judged = 0
    for n in range(plan.rounds + 1):
        for arm in ("idle", "saturated") if n % 2 else ("saturated", "idle"):
            prompts = [[rng.randrange(100, 40_000) for _ in range(plan.prompt_tokens)]]
            before = load.judged
            times = await _arm(engine, load, arm == "saturated", prompts * (plan.hits + 1))
            judged += load.judged - before if arm == "saturated" else 0
            if n:  # the first round warms up
                samples[arm]["miss"].append(times[0])
                samples[arm]["hit"] += times[1:]
        progress(n, plan.rounds)
    return samples, judged


async def _arm(
    engine: HFEngine, load: Load, saturated: bool, prompts: Sequence[list[int]]
) -> list[float]:
    """Seconds to the first token of each prompt, one after another."""
    if not saturated:
        await load.until_idle()
        return [await _ttft_s(engine, prompt) for prompt in prompts]
    times: list[float] = []
    with load.saturated():
        await load.until_judged(1)
        for prompt in prompts:
            times.append(await _ttft_s(engine, prompt))
            if not load.waiting():
                raise DetectorError("the detector ran dry while it should be saturated")
    return times


async def _ttft_s(engine: HFEngine, prompt: list[int]) -> float:
    request = GenerationRequest(tenant=TENANT, token_ids=prompt, max_tokens=1, temperature=0)
    began, first_s = time.perf_counter(), 0.0
    async for _ in engine.generate(request):
        first_s = first_s or time.perf_counter() - began
    return first_s
