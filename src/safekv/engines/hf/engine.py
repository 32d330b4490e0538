"""The embedded engine: a real model, continuous batching, and safekv's prefix cache."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from transformers.generation.continuous_batching.requests import RequestStatus

from safekv.cache import CacheConfig, TiersConfig
from safekv.clock import SystemClock
from safekv.detect.base import Detector
from safekv.detect.cascade import Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.worker import DetectionWorker
from safekv.engines.base import Chunk, DeclaredText, GenerationRequest
from safekv.engines.declared import declared_tokens
from safekv.engines.hf.admission import Admission
from safekv.engines.hf.asking import enqueue, finish_reason, require_fit
from safekv.engines.hf.cloaked.prepare import prepare
from safekv.engines.hf.config import CloakSettings, HFConfig
from safekv.engines.hf.held import HeldOutput
from safekv.engines.hf.leaving import Leaving
from safekv.engines.hf.load import LoadedModel, load
from safekv.engines.hf.loop import LatestOutput, SelectiveLoop
from safekv.engines.hf.paged import SelectiveCache
from safekv.engines.hf.text import AnswerText, PromptText
from safekv.engines.hf.tiers.files import Sealer
from safekv.engines.hf.tiers.fingerprint import fingerprint
from safekv.engines.hf.tiers.mover import TierSetup, setup
from safekv.errors import ConfigError, EngineError, RequestError
from safekv.events import EventSink
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, Release, TenantId, pack_tokens
from safekv.warden import Prefill, PromptJob, Warden, WardenConfig

log = logging.getLogger(__name__)

NO_DETECTOR = Cascade((), lambda stage, error: None)
"""Clears nothing: `declared` needs epochs and no verdicts."""

CALIBRATIONS, CALIBRATION_TOKENS = 3, 1024
"""Prefills measured of each size, and the longest, before a server with masked release serves."""


class HFEngine:
    """Serves one model to many tenants through transformers' continuous batching.

    In `selective` mode it needs a `detector`: without one nothing could ever be shared, so
    a missing detector is a `ConfigError` rather than a silent loss. Other modes ignore it.
    `declared` is asked at every epoch tick what operators declared, and says `None` while
    nothing changed.
    A `source` that is loaded already is served as it is, for benchmarks.
    Likewise `tiers` with a disk need a `sealer`: no block reaches the disk in the clear.
    """

    def __init__(
        self,
        model_id: str,
        source: Path | str | LoadedModel,
        *,
        engine: HFConfig,
        cache: CacheConfig,
        warden: WardenConfig,
        detect: DetectConfig,
        detector: Detector | None = None,
        events: EventSink | None = None,
        safeguard: SafeguardConfig | None = None,
        declared: Callable[[], Sequence[DeclaredText] | None] = lambda: None,
        tiers: TiersConfig | None = None,
        sealer: Sealer | None = None,
        cloak: CloakSettings | None = None,
    ) -> None:
        if warden.mode is Mode.SELECTIVE and detector is None:
            raise ConfigError("mode selective has no detector", "install the extra: safekv[detect]")
        self._tiers, self._sealer = tiers or TiersConfig(), sealer
        if self._tiers.disk_blocks and sealer is None:
            raise ConfigError(
                f"tiers.disk_blocks is {self._tiers.disk_blocks}, but nothing seals the files",
                "set up a vault, or use tiers.disk_blocks = 0",
            )
        self._model_id = model_id
        self._source = source
        self._engine, self._cache, self._detect = engine, cache, detect
        self._cloak = cloak or CloakSettings()
        self._detector = detector
        self._events = events
        self._declared = declared
        if warden.masked and self._tiers.host_blocks:
            raise ConfigError(
                f"warden.release is masked and tiers.host_blocks is {self._tiers.host_blocks}",
                "use one of them: what lies in tiers is not masked yet",
            )
        self._clock = SystemClock()
        self.warden = Warden(warden, cache, events, safeguard, tiers=self._tiers, clock=self._clock)
        self._leaving = Leaving()
        self._loaded: LoadedModel | None = None
        self._loop: SelectiveLoop | None = None
        self._worker: DetectionWorker[PromptJob] | None = None

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model, start the loop and the detector, and run one forward pass.

        Raises `ModelError` when the model cannot be loaded, `EngineError` when it cannot run.
        """
        await asyncio.to_thread(self._load)
        self._start_detection()
        # No admission, so it belongs to nobody: it reuses nothing and leaves nothing behind.
        await self._prefill_s(self._cache.block_tokens)
        if self.warden.schedule is not None:
            self.warden.schedule.calibrate(await self._prefills())

    async def _prefills(self) -> list[Prefill]:
        """How long prefills take now that nobody else is served. Some seconds on a CPU."""
        most = min(self.context_tokens, self._cache.capacity_blocks * self._cache.block_tokens) - 1
        sizes = {self._cache.block_tokens, most // 16, self._engine.max_batch_tokens, most}
        sizes = {size for size in sizes if 1 <= size <= min(most, CALIBRATION_TOKENS)}
        return [
            Prefill(size, 0, await self._prefill_s(size))
            for size in sorted(sizes)
            for _ in range(CALIBRATIONS)
        ]

    async def _prefill_s(self, n_tokens: int) -> float:
        """Seconds to the first token of a prompt that is nobody's."""
        began = self._clock.now_s()
        request = GenerationRequest(tenant=TenantId(""), token_ids=[0] * n_tokens, max_tokens=1)
        async for _ in self._stream(request, admitted=False):
            pass
        return self._clock.now_s() - began

    def _load(self) -> None:
        source = self._source
        self._loaded = source if isinstance(source, LoadedModel) else load(source, self._engine)
        loop = self._new_loop(self._loaded)
        # Builds the cache in this thread, so that a model it cannot serve is refused here.
        try:
            loop.warmup()
        except MemoryError as error:
            raise ConfigError(
                f"cache.capacity_blocks is {self._cache.capacity_blocks}, more than memory holds",
                "use fewer blocks",
            ) from error
        loop.start()
        self._loop = loop

    def _new_loop(self, loaded: LoadedModel) -> SelectiveLoop:
        cloaking = prepare(self._cloak, self._source, loaded.model, loaded.tokenizer)
        parts = self._cache, self._engine, self.warden, self._tier_setup, cloaking, self._clock
        return SelectiveLoop(loaded.model, *parts)

    def _tier_setup(self, wake: Callable[[], None]) -> TierSetup:
        model = self._model
        name = partial(fingerprint, model.model, model.tokenizer)
        return setup(self._tiers, self._sealer, name, wake)

    def _start_detection(self) -> None:
        if self.warden.config.mode not in (Mode.SELECTIVE, Mode.DECLARED):
            return
        text = PromptText(self._model.tokenizer, self._cache.block_tokens)
        self._worker = DetectionWorker(
            self._detector or NO_DETECTOR,
            text.document,
            self.warden.settle,
            self._tick,
            tenant_of=lambda job: job.tenant,
            epoch_s=self.warden.config.epoch_s,
            config=self._detect,
            events=self._events,
        )
        self.warden.on_prompt(self._worker.submit)
        self._worker.start()

    def _tick(self) -> None:
        """End an epoch, after a look at what is declared."""
        texts = self._declared()
        if texts is not None:
            prefixes = [declared_tokens(one, self.encode, self.encode_chat) for one in texts]
            self.warden.declare([pack_tokens(prefix) for prefix in prefixes])
        self.warden.tick()

    async def stop(self, drain_s: float) -> None:
        """Let the loop finish for `drain_s` seconds, then end it. Safe to call twice."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop)
        try:
            await self._stop_loop(drain_s)
        finally:
            await self._leaving.stop()

    async def _stop_loop(self, drain_s: float) -> None:
        loop = self._loop
        if loop is None or not loop.is_running():
            return
        cache = self._selective_cache()
        if drain_s > 0:
            await asyncio.to_thread(loop.stop, True, drain_s, True)
        if loop.is_running():
            await asyncio.to_thread(loop.stop, True, 30.0, False, True)
        if cache is not None:
            await asyncio.to_thread(cache.stop_copies)

    def sharing(self) -> tuple[Mode, Profile]:
        """The mode and the profile in force."""
        return self.warden.config.mode, self.warden.config.profile

    def set_mode(self, mode: Mode, profile: Profile | None = None) -> int:
        """Share less, at once; the demoted blocks. Raises `ConfigError` for what shares more."""
        return self.warden.set_mode(mode, profile)

    # -- facts -----------------------------------------------------------------------------

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def context_tokens(self) -> int:
        """The model's limit."""
        return self._model.context_tokens

    def limit_tokens(self, tenant: TenantId) -> int:
        """The model's limit, or what `tenant` may hold of the cache if that is less."""
        blocks = self.warden.ceiling_blocks(tenant)
        return min(self.context_tokens, blocks * self._cache.block_tokens)

    def open(self, tenants: Iterable[TenantId]) -> None:
        """Divide the cache between `tenants`. Raises `CacheError` when there are too many."""
        self.warden.open(tenants)

    def healthy(self) -> bool:
        """Whether the generation loop runs and has not failed."""
        loop = self._loop
        return (
            loop is not None
            and loop.is_running()
            and loop.background_thread_status.fatal_error is None
        )

    def health(self) -> Mapping[str, object]:
        """Facts that are the same for every tenant."""
        config = self.warden.config
        release = Release.MASKED if config.masked else Release.IMMEDIATE
        facts: dict[str, object] = {"mode": config.mode.value, "engine": "hf"}
        facts |= {"release": release.value, "cloak": self._cloak.profile.value}
        if self._worker is not None:
            facts["detector"] = self._worker.state()
        return facts

    @property
    def loop(self) -> SelectiveLoop:
        """The generation loop itself, for benchmarks. Raises `EngineError` before `start`."""
        return self._running_loop()

    def shared_blocks(self) -> int:
        """Blocks that every tenant may reuse; for the operator's metrics. O(tenants)."""
        return self.warden.stats().shared_blocks

    def detection_backlog(self) -> int:
        """Prompts that wait to be judged; for the operator's metrics."""
        return self._worker.backlog() if self._worker is not None else 0

    def tiers_backlog(self) -> int:
        """Blocks that wait to be written to disk; for the operator and for benchmarks."""
        cache = self._selective_cache()
        return cache.copies_waiting() if cache is not None else 0

    def check(self) -> None:
        """Raise `IsolationBroken` unless every block is accounted for. Call when idle."""
        cache = self._selective_cache()
        if cache is not None:
            cache.check()

    async def lapse(self, tenant: TenantId) -> None:
        """Let all that `tenant` does not need now lapse from the device, for benchmarks."""
        await asyncio.to_thread(self._paused, lambda cache: cache.lapse(tenant))

    async def forget(self, tenant: TenantId) -> None:
        """Delete what `tenant` alone has in the cache, in all tiers: device, host memory and disk.

        What is shared stays. Raises `CacheError` while it has running requests; nothing was
        deleted then. `OSError` means that a file could not be deleted; its key is.
        """
        await asyncio.to_thread(self._paused, lambda cache: cache.forget(tenant))

    def _paused(self, act: Callable[[SelectiveCache], None]) -> None:
        """Do `act` between two steps of the loop, with the cache to itself."""
        cache = self._selective_cache()
        if cache is not None:
            with self._running_loop().pause():
                act(cache)

    def _selective_cache(self) -> SelectiveCache | None:
        cache = getattr(self._running_loop().batch_processor, "cache", None)
        return cache if isinstance(cache, SelectiveCache) else None

    # -- requests --------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        # The backend's own call leaves the tokenizer unchanged, so that the detector's thread
        # may decode at the same time; and only its batch form lets other threads run meanwhile.
        backend = self._model.tokenizer.backend_tokenizer
        (encoding,) = backend.encode_batch([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a chat. Raises `RequestError` when the template cannot express it."""
        try:
            ids: list[int] = self._model.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except Exception as error:  # templates raise what they like, and may quote the message
            raise RequestError(
                f"the model's chat template refused these messages ({type(error).__name__})",
                "check the order of roles",
                param="messages",
            ) from None
        return ids

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Chunks of the answer, one per engine step. Closing the iterator cancels the request."""
        async with contextlib.aclosing(self._stream(request, admitted=True)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(
        self, request: GenerationRequest, *, admitted: bool
    ) -> AsyncGenerator[Chunk, None]:
        loop = self._running_loop()
        request_id = secrets.token_hex(16)
        ceiling = self.warden.ceiling_blocks(request.tenant) if admitted else 0
        if admitted:
            require_fit(request, ceiling * self._cache.block_tokens)
            self._leaving.require_room(request.tenant)
        admission = Admission(request.tenant, len(request.token_ids), ceiling)
        outputs: LatestOutput | HeldOutput = LatestOutput()
        if admitted and self.warden.config.masked:
            outputs = HeldOutput(lambda: admission.due_s, self._clock)
        if admitted:
            loop.admissions.by_id[request_id] = admission
        loop.router.open(request_id, outputs.put)
        finished = enqueued = False
        try:
            enqueue(loop, request_id, request)
            enqueued = True
            text, seen = AnswerText(self._model.tokenizer), 0
            while not finished:
                output = await outputs.get(self.healthy)
                finished = output.is_finished()
                if output.status is RequestStatus.FAILED:
                    raise EngineError("the engine failed while generating", "try again later")
                new, seen = output.generated_tokens[seen:], len(output.generated_tokens)
                yield Chunk(
                    text.add(new),
                    seen,
                    admission.cached_tokens,
                    finish_reason(loop, output) if finished else None,
                )
        finally:
            end = partial(self._end, loop, request_id, cancel=not finished)
            if finished or not isinstance(outputs, HeldOutput) or not enqueued:
                end()
            else:
                self._leaving.add(request.tenant, self._leave(outputs), end)

    async def _leave(self, outputs: HeldOutput) -> None:
        """Wait, for a client that has gone, until its first token would have gone out."""
        with contextlib.suppress(EngineError):
            await outputs.first(self.healthy)

    @staticmethod
    def _end(loop: SelectiveLoop, request_id: str, *, cancel: bool) -> None:
        loop.router.close(request_id)
        loop.admissions.by_id.pop(request_id, None)
        if cancel:
            loop.cancel_request(request_id)

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise EngineError("the engine has not started", "call start() first")
        return self._loaded

    def _running_loop(self) -> SelectiveLoop:
        if self._loop is None:
            raise EngineError("the engine has not started", "call start() first")
        return self._loop
