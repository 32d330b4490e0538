"""Names for blocks that betray nothing of their text."""

from __future__ import annotations

import hashlib
from typing import Final

from safekv.types import TOKEN_BYTES

NAME_BYTES: Final = 16


def block_names(key: bytes, tokens: bytes, n_blocks: int, block_tokens: int) -> tuple[bytes, ...]:
    """A keyed name for each of the first `n_blocks` blocks of `tokens`: of it and all before it.

    BLAKE2b, chained, so O(tokens). Without `key` a name neither confirms nor gives away a text.
    """
    width, names, name = block_tokens * TOKEN_BYTES, list[bytes](), b""
    for at in range(0, n_blocks * width, width):
        block = name + tokens[at : at + width]
        name = hashlib.blake2b(block, key=key, digest_size=NAME_BYTES).digest()
        names.append(name)
    return tuple(names)
