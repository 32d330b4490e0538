"""transformers' own prefix cache behind the same gateway: shared by all, and nothing of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from safekv.cache import CacheConfig
from safekv.detect.config import DetectConfig
from safekv.engines.base import Chunk, GenerationRequest
from safekv.engines.hf.admission import Admissions
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.load import LoadedModel
from safekv.engines.hf.loop import (
    SelectiveLoop,
    StreamRouter,
    batching_config,
    generation_config,
)
from safekv.engines.hf.sampling import processors
from safekv.types import Mode, TenantId
from safekv.warden import WardenConfig


class StockLoop(ContinuousBatchingManager):  # type: ignore[misc]
    """A `ContinuousBatchingManager` with its own cache and scheduler; outputs go our way."""

    def __init__(self, loaded: LoadedModel, cache: CacheConfig, engine: HFConfig) -> None:
        model = loaded.model
        super().__init__(model, generation_config(model), batching_config(cache, engine))
        self.logit_processor = processors()
        self.admissions = Admissions()
        self.router = StreamRouter()
        self.output_router = self.router


class StockEngine(HFEngine):
    """Serves like `HFEngine`, with transformers' cache. `cached_tokens` is always 0."""

    def __init__(
        self,
        model_id: str,
        source: Path | str | LoadedModel,
        *,
        engine: HFConfig,
        cache: CacheConfig,
    ) -> None:
        # A warden that is asked for nothing.
        idle = WardenConfig(mode=Mode.UNSAFE_GLOBAL)
        super().__init__(
            model_id, source, engine=engine, cache=cache, warden=idle, detect=DetectConfig()
        )
        self._matched: dict[str, tuple[int, int]] = {}

    def _new_loop(self, loaded: LoadedModel) -> SelectiveLoop:
        # Everything that `HFEngine` asks of a loop is there; the cache behind it is another.
        return cast(SelectiveLoop, StockLoop(loaded, self._cache, self._engine))

    def limit_tokens(self, tenant: TenantId) -> int:
        return self.context_tokens

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """As `HFEngine` does, without an admission: no tenant is known to the cache."""
        async with aclosing(self._stream(request, admitted=False)) as chunks:
            async for chunk in chunks:
                yield chunk

    def watch(self) -> None:
        """From now on count what prompts found, in place of the warden's events."""
        cache = self._paged_cache()
        search = cache.search_prefix_match

        def counted(request_id: str, prompt_ids: list[int]) -> int:
            found = int(search(request_id, prompt_ids))
            self._matched[request_id] = (len(prompt_ids), found)
            return found

        cache.search_prefix_match = counted

    def reset(self) -> None:
        """Count from now on."""
        self._matched.clear()

    def facts(self) -> dict[str, Any]:
        """Prompt and hit tokens since `reset`."""
        matched = list(self._matched.values())
        return {
            "prompts": len(matched),
            "prompt_tokens": sum(prompt for prompt, _ in matched),
            "hit_tokens": sum(found for _, found in matched),
        }

    def stored_blocks(self) -> int:
        """Blocks that hold the content of whole prompts, in use or kept."""
        ledger = self._paged_cache().cache_allocators[FULL_ATTENTION].ledger
        return len(ledger.block_to_hash)

    def _paged_cache(self) -> Any:
        return self.loop.batch_processor.cache
