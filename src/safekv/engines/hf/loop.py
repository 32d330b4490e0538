"""transformers' generation loop, composed with safekv's cache, scheduler and output routing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.initialization import (
    update_cb_config_after_cache_creation,
)
from transformers.generation.continuous_batching.requests import GenerationOutput, logger

from safekv.cache import CacheConfig
from safekv.clock import Clock
from safekv.engines.hf.admission import Admissions
from safekv.engines.hf.cloaked.prepare import Cloaking
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.paged import SelectiveCache
from safekv.engines.hf.sampling import processors
from safekv.engines.hf.scheduler import PatientScheduler
from safekv.engines.hf.tiers.mover import TierSetup
from safekv.errors import EngineError
from safekv.warden import Warden

# At WARNING this logger prints the ids of refused prompts.
logger.setLevel("ERROR")

Listener = Callable[[GenerationOutput], None]

HEARTBEAT_S: Final = 1.0


class LatestOutput:
    """The newest output of one request. Outputs are cumulative, so older ones are not kept:
    a client that reads slowly costs no memory. Belongs to one event loop."""

    def __init__(self) -> None:
        self._output: GenerationOutput | None = None
        self._fresh = asyncio.Event()

    def put(self, output: GenerationOutput) -> None:
        """Replace what was there."""
        self._output = output
        self._fresh.set()

    async def get(self, alive: Callable[[], bool]) -> GenerationOutput:
        """The newest output that was not returned yet.

        Asks `alive` once a second while there is none, and raises `EngineError` when it says
        no: a loop that died before it saw the request will never answer.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), HEARTBEAT_S)
            if self._fresh.is_set() and self._output is not None:
                self._fresh.clear()
                return self._output
            if not alive():
                raise EngineError("the engine has stopped", "try again later")


class StreamRouter(OutputRouter):  # type: ignore[misc]
    """Delivers each step's outputs to their streams, in one hop to the event loop.

    Called from the engine's thread; `open` and `close` from the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[str, tuple[Listener, asyncio.AbstractEventLoop]] = {}
        self._guard = threading.Lock()

    def open(self, request_id: str, listener: Listener) -> None:
        """Send outputs of `request_id` to `listener` on the running event loop."""
        with self._guard:
            self._streams[request_id] = (listener, asyncio.get_running_loop())

    def close(self, request_id: str) -> None:
        """Forget `request_id`; what still comes for it is dropped."""
        with self._guard:
            self._streams.pop(request_id, None)

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """Group by event loop, then one thread-safe call for each."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Listener, GenerationOutput]]] = {}
        with self._guard:
            for output in outputs:
                if entry := self._streams.get(output.request_id):
                    batches.setdefault(entry[1], []).append((entry[0], output))
        for loop, batch in batches.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_run, batch)


def _run(batch: list[tuple[Listener, GenerationOutput]]) -> None:
    for listener, output in batch:
        listener(output)


def batching_config(cache: CacheConfig, engine: HFConfig) -> ContinuousBatchingConfig:
    """transformers' settings for ours: page = block, the budget fixed, no offload of its own."""
    return ContinuousBatchingConfig(
        page_size=cache.block_tokens,
        num_blocks=cache.capacity_blocks,
        max_batch_tokens=engine.max_batch_tokens,
        max_requests_per_batch=engine.max_requests_per_batch,
        allow_block_sharing=True,
        auto_switch_to_flash=False,
    )


def generation_config(model: PreTrainedModel) -> GenerationConfig:
    """Sampling for every row; greedy requests leave one token to sample from."""
    eos = model.generation_config.eos_token_id
    return GenerationConfig(do_sample=True, eos_token_id=-1 if eos is None else eos)


class SelectiveLoop(ContinuousBatchingManager):  # type: ignore[misc]
    """A `ContinuousBatchingManager` that builds its processor around `SelectiveCache`."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: CacheConfig,
        engine: HFConfig,
        warden: Warden,
        tiers: Callable[[Callable[[], None]], TierSetup] | None = None,
        cloaking: Cloaking | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(model, generation_config(model), batching_config(cache, engine))
        self.logit_processor = processors()
        self.admissions = Admissions()
        self.router = StreamRouter()
        self.output_router = self.router
        self._warden = warden
        self._cloaking = cloaking
        self._clock = clock
        self._tiers = tiers(self._wake_up_loop.set) if tiers is not None else None

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        if isinstance(self.batch_processor, ContinuousBatchProcessor):
            self.batch_processor.reset()
            return self.batch_processor
        config = self.continuous_batching_config
        cache = self._selective_cache()
        update_cb_config_after_cache_creation(config, cache.num_blocks, cache.max_batch_tokens)
        return ContinuousBatchProcessor(
            cache=cache,
            config=self.model.config.get_text_config(),
            generation_config=self.generation_config,
            continuous_batching_config=config,
            logit_processor=self.logit_processor,
            input_queue=self.input_queue,
            cancel_queue=self.cancel_queue,
            output_router=self.output_router,
            background_thread_status=self.background_thread_status,
            model_device=self.model.device,
            model_dtype=self.model.dtype,
            scheduler=PatientScheduler(cache, config.safety_margin, config.max_requests_per_batch),
            distributed_helper=self.distributed_helper,
        )

    def _selective_cache(self) -> SelectiveCache:
        slices_logits: Any = getattr(self.model, "_supports_logits_to_keep", None)
        return SelectiveCache(
            self.model.config.get_text_config(),
            self.continuous_batching_config,
            self.model.device,
            self.distributed_helper,
            self.model.dtype,
            callable(slices_logits) and slices_logits(),
            warden=self._warden,
            admissions=self.admissions,
            tiers=self._tiers,
            cloaking=self._cloaking,
            clock=self._clock,
        )
