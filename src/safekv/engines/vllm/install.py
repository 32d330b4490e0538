"""Puts safekv's names in the place where vLLM's engine core makes its request block hasher."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from safekv.engines.vllm.keys import BlockKeys

_next = threading.local()


def next_engine(keys: BlockKeys, claim_key: bytes) -> None:
    """Let the engine core that this thread is making name blocks with `keys`.

    An engine core makes its scheduler first and its hasher after it, in one thread.
    """
    install()
    _next.keys = keys, claim_key


def install() -> None:
    """Wrap the maker of hashers in `vllm.v1.engine.core`. Once; again does nothing."""
    from vllm.v1.engine import core

    stock: Callable[..., Any] = core.get_request_block_hasher
    if getattr(stock, "safekv", False):
        return

    def get_request_block_hasher(hash_block_size: int, caching_hash_fn: Any) -> Any:
        keys = getattr(_next, "keys", None)
        _next.keys = None
        if keys is None:
            return stock(hash_block_size, caching_hash_fn)
        from safekv.engines.vllm.hasher import BlockNamer

        names, claim_key = keys
        return BlockNamer(names, claim_key, hash_block_size, caching_hash_fn)

    get_request_block_hasher.safekv = True  # type: ignore[attr-defined]
    core.get_request_block_hasher = get_request_block_hasher
