"""Settings of the vLLM plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from safekv.cache import CacheConfig
from safekv.errors import ConfigError

INDEX_PER_BLOCK: Final = 4
"""Blocks the index remembers for each block of vLLM's pool, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """How much the index remembers, and what it may cost vLLM's engine core.

    The index knows `index_blocks` blocks (0: four for each block of vLLM's pool), of which
    everybody may share `index_shared_part`; what it does not know stays private. At most
    `queue_prompts` prompts wait for it, and a prompt that does not fit stays private. In each
    step the engine spends up to `step_budget_us` microseconds on renaming blocks.

    Raises `ConfigError` for values that cannot work.
    """

    index_blocks: int = 0
    index_shared_part: float = 0.5
    queue_prompts: int = 256
    step_budget_us: int = 300

    def __post_init__(self) -> None:
        if self.index_blocks < 0 or self.index_blocks == 1:
            raise ConfigError(
                f"vllm.index_blocks is {self.index_blocks}", "use 0 (the default) or at least 2"
            )
        if not 0 <= self.index_shared_part < 1:
            raise ConfigError(
                f"vllm.index_shared_part is {self.index_shared_part}", "use 0 to less than 1"
            )
        if self.queue_prompts < 1:
            raise ConfigError(f"vllm.queue_prompts is {self.queue_prompts}", "use 1 or more")
        if self.step_budget_us < 1:
            raise ConfigError(f"vllm.step_budget_us is {self.step_budget_us}", "use 1 or more")

    def cache(self, block_tokens: int, pool_blocks: int, cache: CacheConfig) -> CacheConfig:
        """The sizes of an index over a pool of `pool_blocks` blocks of `block_tokens` tokens.

        Quotas and overcommit are those of `cache`, in blocks of the index.
        """
        blocks = self.index_blocks or max(2, INDEX_PER_BLOCK * pool_blocks)
        return CacheConfig(
            block_tokens=block_tokens,
            capacity_blocks=blocks,
            shared_blocks=int(blocks * self.index_shared_part),
            quota_blocks=cache.quota_blocks,
            overcommit=cache.overcommit,
            reused_floor=cache.reused_floor,
        )
