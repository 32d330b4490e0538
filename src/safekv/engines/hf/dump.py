"""The pages of a running engine as bytes: what a reader of its memory would see.

For auditing one's own deployment. No keys and no tokens leave with them: a reader of memory does
not know which page belongs to whom either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.paged import SelectiveCache
from safekv.errors import EngineError


@dataclass(frozen=True, slots=True)
class Pages:
    """Blocks of a pool, and how each is laid out: by layer, keys before values, token, head."""

    blocks: Sequence[bytes] = field(repr=False)
    layers: int
    tokens: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


def pages(engine: HFEngine) -> Pages:
    """Every block of the pool that was written to, in the order of memory. Copies all of them.

    The loop is paused meanwhile. Raises `EngineError` before the engine was started.
    """
    with engine.loop.pause():
        cache = getattr(engine.loop.batch_processor, "cache", None)
        if not isinstance(cache, SelectiveCache):
            raise EngineError("the engine has no pool yet", "start it first")
        allocator = cache._allocator
        rows = allocator._copy_view
        written = rows.any(dim=1).nonzero()[:, 0].tolist()
        blocks = [rows[n].cpu().contiguous().view(torch.uint8).numpy().tobytes() for n in written]
        return Pages(
            blocks,
            len(allocator.layer_indices),
            int(allocator.tokens_per_page),
            int(allocator.num_key_value_heads),
            int(allocator.head_dim),
            allocator.cache_dtype,
        )
