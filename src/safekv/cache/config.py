"""Settings of the prefix tree."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.errors import ConfigError

SHARED_PART = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How large blocks are, how many the engine may hold, and how tenants divide them.

    `block_tokens` is the unit of sharing; `capacity_blocks` the whole budget, running
    requests included. `shared_blocks` of it are the pool of shared runs, by default a quarter;
    the rest belongs to the tenants. `quota_blocks` is what each of them is guaranteed; by
    default an equal share of that rest among the tenants that there are.

    `overcommit` is how many times its quota a tenant may hold. At 1 no tenant can feel
    another's use of memory. Above 1 memory may run out, and who is over quota loses blocks
    first: how much others use can then be felt, but not what it is.

    `reused_floor` is the share of its quota up to which a tenant's blocks that were matched
    again outlive those that never were; 0 is plain LRU.

    Raises `ConfigError` for values that cannot work.
    """

    block_tokens: int = 32
    capacity_blocks: int = 1024
    shared_blocks: int | None = None
    quota_blocks: int | None = None
    overcommit: float = 1.0
    reused_floor: float = 0.25

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ConfigError(
                f"cache.block_tokens is {self.block_tokens}", "use 1 or more tokens per block"
            )
        if self.capacity_blocks < 2:
            raise ConfigError(
                f"cache.capacity_blocks is {self.capacity_blocks}", "use at least 2 blocks"
            )
        if not 0 <= self.pool_blocks < self.capacity_blocks:
            raise ConfigError(
                f"cache.shared_blocks is {self.shared_blocks}",
                f"use 0 or more, and less than cache.capacity_blocks ({self.capacity_blocks})",
            )
        if self.quota_blocks is not None and not 1 <= self.quota_blocks <= self.private_blocks:
            raise ConfigError(
                f"cache.quota_blocks is {self.quota_blocks}",
                f"use 1 to {self.private_blocks}, which is what the shared pool leaves",
            )
        if not 1 <= self.overcommit <= self.capacity_blocks:
            raise ConfigError(
                f"cache.overcommit is {self.overcommit}",
                f"use 1 (no overcommit) to cache.capacity_blocks ({self.capacity_blocks})",
            )
        if not 0 <= self.reused_floor <= 1:
            raise ConfigError(
                f"cache.reused_floor is {self.reused_floor}", "use a share of 0 (LRU) to 1"
            )

    @property
    def pool_blocks(self) -> int:
        """The budget of the shared pool."""
        if self.shared_blocks is None:
            return self.capacity_blocks // SHARED_PART
        return self.shared_blocks

    @property
    def private_blocks(self) -> int:
        """What all tenants' quotas together may come to."""
        return self.capacity_blocks - self.pool_blocks
