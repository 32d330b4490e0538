"""vLLM's KV cache manager, asking safekv for a request's names before each use of them."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.request import Request

from safekv.engines.vllm.keeper import Keeper


class SelectiveKVCacheManager(KVCacheManager):  # type: ignore[misc]
    """A `KVCacheManager` whose names are chosen by `keeper`.

    vLLM's scheduler makes its manager itself, so `adopt` changes the class of that object
    before any request is there.
    """

    keeper: Keeper

    @classmethod
    def adopt(cls, manager: KVCacheManager, keeper: Keeper) -> None:
        """Make `manager` ask `keeper` from now on."""
        manager.__class__ = cls
        assert isinstance(manager, cls)
        manager.keeper = keeper

    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        """Look up what the request's tenant may reuse."""
        self.keeper.admit(request)
        return super().get_computed_blocks(request)  # type: ignore[no-any-return]

    def allocate_slots(self, request: Request, *args: Any, **kwargs: Any) -> KVCacheBlocks | None:
        """Give the request blocks, and file full ones under the names that hold now."""
        self.keeper.refresh(request)
        return super().allocate_slots(request, *args, **kwargs)

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        """File full blocks under the names that hold now."""
        self.keeper.refresh(request)
        super().cache_blocks(request, num_computed_tokens)

    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        """Count an admission, and let the tenant be told of its own and declared blocks only.

        vLLM has just noted the whole hit in `request.prefill_stats`, from where it would reach
        the usage field.
        """
        super().record_prefix_cache_stats(request, num_hits)
        stats = request.prefill_stats
        external = stats.num_external_cached_tokens if stats is not None else 0
        told = self.keeper.told_tokens(request, num_hits + external)
        if stats is not None and request.num_preemptions <= 0:
            local = min(num_hits, told)
            stats.set(
                num_prompt_tokens=stats.num_prompt_tokens,
                num_local_cached_tokens=local,
                num_external_cached_tokens=min(external, told - local),
            )
