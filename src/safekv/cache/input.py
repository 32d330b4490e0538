"""What callers may pass to the tree. Nothing was changed when one of these raises."""

from __future__ import annotations

from collections.abc import Sequence

from safekv.cache.lease import Lease
from safekv.errors import CacheError
from safekv.types import TOKEN_BYTES, BlockId, pack_blocks


def require_tokens(tokens: bytes, max_blocks: int | None) -> None:
    """Raise `CacheError` unless `tokens` are whole int32 values and `max_blocks` is a count."""
    if len(tokens) % TOKEN_BYTES:
        raise CacheError(
            f"{len(tokens)} bytes are not whole tokens",
            f"pass int32 tokens, {TOKEN_BYTES} bytes each",
        )
    if max_blocks is not None and max_blocks < 0:
        raise CacheError(f"max_blocks is {max_blocks}", "use 0 or more")


def packed_blocks(
    lease: Lease, tokens: bytes, blocks: Sequence[BlockId], block_tokens: int
) -> bytes:
    """`blocks` as uint32 bytes, if they are the KV of `tokens` behind what `lease` covers.

    Raises `CacheError` when the lease is released, the sizes disagree, the tokens begin
    otherwise than those of the lease, or an id is no uint32. One comparison of the tokens.
    """
    width = block_tokens * TOKEN_BYTES
    if lease.released:
        raise CacheError("insert on a released lease", "admit the request again")
    if len(tokens) != (lease.n_blocks + len(blocks)) * width:
        raise CacheError(
            f"{len(tokens) // TOKEN_BYTES} tokens are not the {lease.n_blocks} blocks of the"
            f" lease and {len(blocks)} new ones",
            f"pass only full blocks of {block_tokens} tokens, and all of them",
        )
    covered = lease.n_blocks * width
    if tokens is not lease.tokens and not tokens.startswith(lease.tokens[:covered]):
        raise CacheError(
            "the tokens do not begin with those of the lease", "match these tokens first"
        )
    try:
        return pack_blocks(blocks)
    except (OverflowError, TypeError) as error:
        raise CacheError("a block id is not a uint32", "use ids of 0 to 2**32 - 1") from error
