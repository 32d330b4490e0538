"""What a sealed block of KV is: bound to it, so that it opens as nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from safekv.vault.seal import length_prefixed

_NUMBERS = struct.Struct(">IIIQ")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockContext:
    """The identity of a block: sealed under one, a block opens under no other.

    `model` and `tokenizer` name exact versions (a checksum, not a display name), `layers` is
    the half-open range the payload covers, `layout` the order of its axes, and `block_hash` the
    hash of the block and all that precedes it. `epoch` counts whatever makes older blocks
    void. Tenant or SHARED is not part of it: the vault binds that itself.
    """

    model: str
    tokenizer: str
    layers: tuple[int, int]
    kv_heads: int
    block_hash: bytes
    dtype: str
    layout: str
    epoch: int = 0

    def encode(self) -> bytes:
        """Bytes that no other context has. O(1). Raises `struct.error` for numbers below zero."""
        texts = (self.model, self.tokenizer, self.dtype, self.layout)
        numbers = _NUMBERS.pack(*self.layers, self.kv_heads, self.epoch)
        return length_prefixed(*(text.encode() for text in texts), self.block_hash, numbers)
