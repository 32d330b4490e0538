"""What `safekv serve` says of memory at start: who may hold how much of it."""

from __future__ import annotations

from collections.abc import Iterator

from safekv.cache import CacheConfig, TreeStats


def memory_lines(
    cache: CacheConfig, stats: TreeStats, ceiling_blocks: int, context_tokens: int
) -> Iterator[str]:
    """How memory is divided, in tokens, and what to do where a tenant's part is small.

    `stats` are those of the tree with all tenants opened, `ceiling_blocks` is what one of them may
    hold at most, and `context_tokens` the longest request that the model takes.
    """
    width = cache.block_tokens
    if not stats.tenants:
        return
    quota = stats.quota_blocks // stats.tenants
    each = f"{quota * width:,} for each of {stats.tenants} tenants"
    if ceiling_blocks > quota:
        each += f", and up to {ceiling_blocks * width:,} while others leave it"
    shared = f"{stats.shared_budget_blocks * width:,} for what is shared, "
    total = f"memory for {cache.capacity_blocks * width:,} tokens: "
    yield total + (shared if stats.shared_budget_blocks else "") + each
    if ceiling_blocks * width < context_tokens:
        yield (
            f"a request of more than {ceiling_blocks * width:,} tokens is refused: raise "
            "cache.capacity_blocks, or see docs/sizing.md"
        )
