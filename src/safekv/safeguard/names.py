"""Names for blocks that betray nothing of their text."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

from safekv.types import TOKEN_BYTES, TenantId

NAME_BYTES: Final = 16
REMEMBERED_TENANTS: Final = 256


def block_names(
    key: bytes, tokens: bytes, n_blocks: int, block_tokens: int, known: Sequence[bytes] = ()
) -> tuple[bytes, ...]:
    """A keyed name for each of the first `n_blocks` blocks of `tokens`: of it and all before it.

    BLAKE2b, chained, so O(tokens behind those whose names are `known`). Without `key` a name
    neither confirms nor gives away a text.
    """
    width, names = block_tokens * TOKEN_BYTES, list(known[:n_blocks])
    name = names[-1] if names else b""
    for at in range(len(names) * width, n_blocks * width, width):
        block = name + tokens[at : at + width]
        name = hashlib.blake2b(block, key=key, digest_size=NAME_BYTES).digest()
        names.append(name)
    return tuple(names)


class NameMemory:
    """Names blocks, and remembers those of each tenant's latest text: a conversation's next prompt
    begins with them, so its names cost a comparison and only what is new is hashed.

    Of the latest `tenants` that named anything. Called from any thread.
    """

    def __init__(self, key: bytes, block_tokens: int, tenants: int = REMEMBERED_TENANTS) -> None:
        self._key, self._block_tokens = key, block_tokens
        self._tenants = tenants
        self._latest: dict[TenantId, tuple[bytes, tuple[bytes, ...]]] = {}
        self._lock = threading.Lock()

    def names(self, tenant: TenantId, tokens: bytes, n_blocks: int) -> tuple[bytes, ...]:
        """The names of the first `n_blocks` blocks of `tokens`."""
        with self._lock:
            before, known = self._latest.pop(tenant, (b"", ()))
        width = self._block_tokens * TOKEN_BYTES
        same = common_blocks(before, tokens, width)
        names = block_names(self._key, tokens, n_blocks, self._block_tokens, known[:same])
        with self._lock:
            self._latest[tenant] = (tokens[: n_blocks * width], names)
            if len(self._latest) > self._tenants:
                del self._latest[next(iter(self._latest))]
        return names


def common_blocks(one: bytes, other: bytes, width: int) -> int:
    """How many leading blocks of `width` bytes are equal. O(bytes), compared in one piece each."""
    low, high = 0, min(len(one), len(other)) // width
    if one[: high * width] == other[: high * width]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low * width : middle * width] == other[low * width : middle * width]:
            low = middle
        else:
            high = middle
    return low
