"""What a running request holds: a matched prefix that cannot be evicted."""

from __future__ import annotations

from safekv.cache.node import Node
from safekv.types import TOKEN_BYTES, BlockId, TenantId, unpack_blocks


class Lease:
    """A matched prefix that cannot be evicted until it is released.

    It covers the path down to the first `tail` blocks of `node`: locked by length, so that a
    long run can still be evicted behind what is used of it. It covers `n_blocks` blocks;
    `hit_blocks` of them were found by the match, and of these `own_blocks` in the tenant's own
    cache: only these may show in what the tenant is told. Once `adopted` the tenant holds them
    all; until then `own_part` locks what it holds, where that could lapse.
    """

    __slots__ = (
        "adopted",
        "hit_blocks",
        "n_blocks",
        "node",
        "own_blocks",
        "own_part",
        "released",
        "tail",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        tenant: TenantId,
        tokens: bytes,
        n_blocks: int,
        own_blocks: int,
        node: Node,
        tail: int,
    ) -> None:
        self.tenant = tenant
        self.tokens = tokens
        self.n_blocks = self.hit_blocks = n_blocks
        self.own_blocks = own_blocks
        self.node = node
        self.tail = tail
        self.adopted = self.released = False
        self.own_part: Lease | None = None

    def __repr__(self) -> str:
        return f"Lease({self.tenant!r}, {self.n_blocks} blocks)"

    @property
    def packed_blocks(self) -> bytes:
        """The covered blocks' ids as uint32 bytes. O(depth), for a lease not yet released."""
        parts, node = [self.node.blocks[: self.tail * TOKEN_BYTES]], self.node.parent
        while node is not None:
            parts.append(node.blocks)
            node = node.parent
        return b"".join(reversed(parts))

    @property
    def blocks(self) -> list[BlockId]:
        """The covered blocks in order. O(blocks), for a lease not yet released."""
        return unpack_blocks(self.packed_blocks)
