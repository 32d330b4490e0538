"""Engines for integration tests: the real model, and a tiny one with the real tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safekv.cache import CacheConfig, TiersConfig
from safekv.detect.base import Detector, Document, Finding
from safekv.detect.config import DetectConfig
from safekv.engines.base import Chunk, DeclaredText, GenerationRequest
from safekv.engines.hf.config import CloakSettings, HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.tiers.files import Sealer
from safekv.events import Event
from safekv.types import Mode, TenantId, Verdict
from safekv.warden import WardenConfig


class ClearAll:
    """A detector that clears everything, so that a test sees what the policy alone holds back."""

    name = "clear-all"

    def judge(self, document: Document) -> list[Finding]:
        return [Finding(Verdict.SHAREABLE, "clear-all") for _ in document.block_ends]


class Heard:
    """An event sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(frozen=True)
class Answer:
    text: str
    last: Chunk

    @property
    def cached_tokens(self) -> int:
        return self.last.cached_tokens


async def ask(
    engine: HFEngine, tenant: str, tokens: Sequence[int], max_tokens: int = 6, **sampling: float
) -> Answer:
    request = GenerationRequest(
        tenant=TenantId(tenant),
        token_ids=tokens,
        max_tokens=max_tokens,
        temperature=sampling.get("temperature", 0),
        top_p=sampling.get("top_p", 1.0),
    )
    chunks = [chunk async for chunk in engine.generate(request)]
    return Answer("".join(chunk.text for chunk in chunks), chunks[-1])


async def until(condition: Callable[[], bool]) -> None:
    """Poll `condition`: what it reads changes in the engine's and the detector's threads."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads do not set asyncio events
            await asyncio.sleep(0.01)


async def settled(engine: HFEngine, blocks: int) -> None:
    """Wait until `blocks` blocks are shared; fails after ten seconds."""
    await until(lambda: engine.shared_blocks() >= blocks)


async def idle(engine: HFEngine) -> None:
    """Wait until no request holds a block; fails after ten seconds."""
    await until(lambda: not (engine.warden.stats().leases or engine.loop.admissions.by_id))


@contextlib.asynccontextmanager
async def running(
    source: Path,
    mode: Mode,
    *,
    capacity_blocks: int = 128,
    max_batch_tokens: int = 512,
    detector: Detector | None = None,
    events: Heard | None = None,
    declared: Callable[[], Sequence[DeclaredText] | None] = lambda: None,
    tiers: TiersConfig | None = None,
    sealer: Sealer | None = None,
    cloak: CloakSettings | None = None,
    warden: WardenConfig | None = None,
) -> AsyncIterator[HFEngine]:
    engine = HFEngine(
        "test",
        source,
        engine=HFConfig(device="cpu", dtype="float32", max_batch_tokens=max_batch_tokens),
        cache=CacheConfig(capacity_blocks=capacity_blocks),
        warden=warden or WardenConfig(mode=mode, epoch_s=0.05),
        detect=DetectConfig(),
        detector=detector or ClearAll(),
        events=events,
        declared=declared,
        tiers=tiers,
        sealer=sealer,
        cloak=cloak,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(5.0)
