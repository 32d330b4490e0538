"""What the paged cache asks of an obfuscation, and where in the pool a token lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from safekv.types import BlockId


@dataclass(frozen=True, slots=True)
class Layout:
    """The pool as transformers lays it out: per block its layers, of each K then V, by token.

    A token's index is that of its key in the first layer, in rows of (heads, dim).
    """

    layers: tuple[int, ...]
    tokens: int
    heads: int
    dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, allocator: Any) -> Layout:
        """The layout of one of transformers' allocators for full attention."""
        return cls(
            tuple(allocator.layer_indices),
            int(allocator.tokens_per_page),
            int(allocator.num_key_value_heads),
            int(allocator.head_dim),
            allocator.cache_dtype,
        )

    @property
    def token_bytes(self) -> int:
        """One token's keys, or values, in one layer."""
        return self.heads * self.dim * self.dtype.itemsize

    @property
    def part_bytes(self) -> int:
        """One block's keys, or values, in one layer."""
        return self.tokens * self.token_bytes

    @property
    def block_bytes(self) -> int:
        """One block."""
        return 2 * len(self.layers) * self.part_bytes


class Run(NamedTuple):
    """`n` tokens of one block from `slot` on; the first is the batch's token number `at`."""

    block: int
    slot: int
    n: int
    at: int


def runs(index: torch.Tensor, layout: Layout) -> list[Run]:
    """The tokens of `index` by block. O(tokens), without a loop over them."""
    if not len(index):
        return []
    tokens = index.numpy()
    blocks, slots = np.divmod(tokens, 2 * layout.tokens * len(layout.layers))
    starts = np.flatnonzero(np.diff(tokens, prepend=tokens[0] - 2) != 1)
    lengths = np.diff(starts, append=len(tokens))
    return [
        Run(*one)
        for one in zip(
            blocks[starts].tolist(),
            slots[starts].tolist(),
            lengths.tolist(),
            starts.tolist(),
            strict=True,
        )
    ]


class Pages(Protocol):
    """Obfuscates what is written to the pool, and undoes it where attention reads.

    Device blocks are named by their row in the pool, host blocks by theirs there; what a block
    is keyed with travels with its content. The engine's thread only, but for `hide`.
    """

    def update(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        layer: int,
        read_index: torch.Tensor,
        write_index: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values (tokens, heads, dim); return all that attention reads.

        What transformers' allocators do, under the same name. Layers come in their order.
        """
        ...

    def filled(self, blocks: Sequence[BlockId]) -> None:
        """All tokens of `blocks` are written. Blocks that were told before are passed over."""
        ...

    def freed(self, blocks: Sequence[BlockId]) -> None:
        """Nobody needs `blocks` any more: nothing in the clear stays in them."""
        ...

    def attach_host(self, host: torch.Tensor) -> None:
        """The host tier's memory, one row of bytes per block."""
        ...

    def offloaded(self, blocks: Sequence[BlockId], places: Sequence[BlockId]) -> None:
        """The bytes of device `blocks` were copied to host `places`."""
        ...

    def onloaded(self, places: Sequence[BlockId], blocks: Sequence[BlockId]) -> None:
        """The bytes of host `places` were copied to device `blocks`."""
        ...

    def reveal(self, place: BlockId) -> bytes:
        """The content of a host block in the clear, to be sealed."""
        ...

    def hide(self, place: BlockId) -> None:
        """Obfuscate a host block that came in the clear, in place. From the disk's thread."""
        ...
