"""Settings of the prefix tree."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How large blocks are and how many the engine may hold.

    `block_tokens` is the unit of sharing; `capacity_blocks` the whole budget, running
    requests included. Raises `ConfigError` for values that cannot work.
    """

    block_tokens: int = 32
    capacity_blocks: int = 1024

    def __post_init__(self) -> None:
        if self.block_tokens < 4:
            raise ConfigError(
                f"cache.block_tokens is {self.block_tokens}", "use 4 or more tokens per block"
            )
        if self.capacity_blocks < 2:
            raise ConfigError(
                f"cache.capacity_blocks is {self.capacity_blocks}", "use at least 2 blocks"
            )
