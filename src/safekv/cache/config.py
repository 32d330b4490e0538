"""Settings of the prefix tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safekv.errors import ConfigError

SHARED_PART = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How large blocks are, how many the engine may hold, and how tenants divide them.

    `block_tokens` is the unit of sharing; `capacity_blocks` the whole budget, running requests
    included. `shared_blocks` of it are the pool of shared runs, by default a quarter (half where
    `WardenConfig.pool_blocks` says so); the rest belongs to the tenants. `quota_blocks` is what
    each of them is guaranteed; by default an equal share of that rest among the tenants that
    there are.

    `overcommit` is how many times its quota a tenant may hold. At 1 no tenant can feel
    another's use of memory. Above 1 memory may run out; then what lies beyond the quotas goes,
    least recently used first: how much others use can then be felt, but not what it is.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersConfig:
    """How many blocks may lie in host memory and on disk; 0, the default, is none.

    Tenants divide each tier equally, or have `host_quota_blocks` and `disk_quota_blocks` each.
    At most `queue_blocks` blocks wait to be written to disk, the rest is dropped. A request
    waits `read_limit_s` seconds at most for its blocks on disk; then they are a miss.

    Raises `ConfigError` for values that cannot work.
    """

    host_blocks: int = 0
    host_quota_blocks: int | None = None
    disk_blocks: int = 0
    disk_quota_blocks: int | None = None
    disk_path: Path | None = None
    queue_blocks: int = 64
    read_limit_s: float = 2.0

    def __post_init__(self) -> None:
        for tier in ("host", "disk"):
            self._check_sizes(tier)
        if self.disk_blocks and not self.host_blocks:
            raise ConfigError(
                f"tiers.disk_blocks is {self.disk_blocks}, but tiers.host_blocks is 0",
                "blocks reach the disk through host memory: set tiers.host_blocks too",
            )
        if self.disk_blocks and self.disk_path is None:
            raise ConfigError(
                f"tiers.disk_blocks is {self.disk_blocks}, but tiers.disk_path is not set",
                "name a directory for the files",
            )
        if self.queue_blocks < 1:
            raise ConfigError(f"tiers.queue_blocks is {self.queue_blocks}", "use 1 or more")
        if not self.read_limit_s > 0:
            raise ConfigError(
                f"tiers.read_limit_s is {self.read_limit_s}", "use more than 0 seconds"
            )

    def _check_sizes(self, tier: str) -> None:
        blocks: int = getattr(self, f"{tier}_blocks")
        quota: int | None = getattr(self, f"{tier}_quota_blocks")
        if blocks < 0:
            raise ConfigError(f"tiers.{tier}_blocks is {blocks}", "use 0 (no such tier) or more")
        if quota is not None and not 1 <= quota <= blocks:
            raise ConfigError(
                f"tiers.{tier}_quota_blocks is {quota}",
                f"use 1 to tiers.{tier}_blocks ({blocks})",
            )
