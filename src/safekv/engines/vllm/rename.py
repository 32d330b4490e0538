"""Applies verdicts to vLLM's block pool: cached blocks get other names, nothing is recomputed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from vllm.distributed.kv_events import BlockStored
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import (
    BlockHash,
    KVCacheBlock,
    make_block_hash_with_group_id,
    maybe_convert_block_hash,
)

from safekv.engines.vllm.index.wire import NamedBlock, Run
from safekv.engines.vllm.keys import ROOT
from safekv.engines.vllm.visible import Visibility
from safekv.types import unpack_tokens

GROUP: Final = 0
"""The one group of KV caches; models with several are refused at start."""


@dataclass(slots=True)
class _Waiting:
    """A verdict, how many of its blocks were applied, and in which life of the index it came."""

    run: Run
    shared: bool
    life: int
    done: int = 0


class Renamer:
    """Shares and unshares blocks in the pool, a few in each step of the engine.

    A block has one name in the pool's map, or several after a demotion: one for each tenant
    that held it. `put` and `forget` may be called from the thread that hears verdicts.
    Mutable state: the queue of verdicts, and how often each name is to become private in it.
    """

    def __init__(self, pool: BlockPool, visible: Visibility, budget_s: float) -> None:
        self._pool = pool
        self._visible = visible
        self._budget_s = budget_s
        self._waiting: deque[_Waiting] = deque()
        self._life = 0
        self._revoked: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self.renamed = self.looked_at = 0
        self.longest_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, run: Run, *, shared: bool) -> None:
        """Queue a verdict. What becomes private is out of everybody's sight at once."""
        if not shared:
            names = list(run.names())
            with self._lock:
                for name in names:
                    self._revoked[name] = self._revoked.get(name, 0) + 1
            self._visible.revoke(reversed(names))
        self._waiting.append(_Waiting(run, shared, self._life))

    def forget(self) -> None:
        """Drop what waits: the index is gone, and nothing is shared any more."""
        with self._lock:
            self._life += 1
            self._revoked.clear()
        self._visible.forget()

    def drain(self) -> int:
        """Apply what waits, for as long as a step may take; the blocks looked at.

        One block is always finished: at most one copy per tenant that computed it.
        """
        if not self._waiting:
            return 0
        began, looked_at = time.perf_counter(), 0
        while self._waiting:
            one = self._waiting[0]
            if one.life != self._life or one.done == len(one.run):
                self._waiting.popleft()
                continue
            n = one.done if one.shared else len(one.run) - 1 - one.done
            (self._share if one.shared else self._unshare)(one.run.block(n), one.life)
            one.done += 1
            looked_at += 1
            if time.perf_counter() - began > self._budget_s:
                break
        self.looked_at += looked_at
        self.longest_s = max(self.longest_s, time.perf_counter() - began)
        return looked_at

    def _share(self, block: NamedBlock, life: int) -> None:
        if block.public in self._revoked:
            return  # a later verdict in the queue takes it back
        for name in block.private:
            for copy in self._copies(name):
                self._rename(copy, name, [block.public], block)
        self._visible.share(block.public)
        if block.public in self._revoked or life != self._life:
            self._visible.revoke((block.public,))  # it was taken back meanwhile

    def _unshare(self, block: NamedBlock, life: int) -> None:
        self._visible.revoke((block.public,))
        copies, holders = self._copies(block.public), block.private
        for n, copy in enumerate(copies):
            # Each holder keeps a copy, and each copy has a holder as long as there are any.
            kept = holders[n :: len(copies)] or (holders[n % len(holders) :][:1] if holders else ())
            self._rename(copy, block.public, kept, block)
        with self._lock:
            left = self._revoked.get(block.public, 1) - 1 if life == self._life else 0
            if left > 0:
                self._revoked[block.public] = left
            elif life == self._life:
                self._revoked.pop(block.public, None)

    def _copies(self, name: bytes) -> list[KVCacheBlock]:
        """The pool's blocks of that name. O(copies)."""
        key = make_block_hash_with_group_id(BlockHash(name), GROUP)
        found = self._pool.cached_block_hash_to_block._cache.get(key)
        if found is None:
            return []
        return list(found.values()) if isinstance(found, dict) else [found]

    def _rename(
        self, copy: KVCacheBlock, old: bytes, new: Sequence[bytes], block: NamedBlock
    ) -> None:
        pool, tokens = self._pool, copy.block_hash_num_tokens
        old_key = make_block_hash_with_group_id(BlockHash(old), GROUP)
        kept = [key for key in pool._remove_cached_block_hashes(copy) if key != old_key]
        # A block that several tenants held may have the new name already.
        added = {make_block_hash_with_group_id(BlockHash(name), GROUP): name for name in new}
        for key in kept:
            added.pop(key, None)
        for key in (*added, *kept):
            pool._insert_block_hash(key, copy, num_tokens=tokens)
        if not copy.ref_cnt and copy.block_hash is None:
            # Nobody can find it any more, so it is the first to be used again.
            pool.free_block_queue.remove(copy)
            pool.free_block_queue.prepend_n([copy])
        pool._emit_block_removed_events([old_key])
        if pool.enable_kv_cache_events:
            pool.kv_event_queue += [self._stored(name, block) for name in added.values()]
        self.renamed += 1

    def _stored(self, name: bytes, block: NamedBlock) -> BlockStored:
        tokens = unpack_tokens(block.tokens)
        parent: Any = None
        if block.parent != ROOT:
            parent = maybe_convert_block_hash(BlockHash(block.parent))
        return BlockStored(
            block_hashes=[maybe_convert_block_hash(BlockHash(name))],
            parent_block_hash=parent,
            token_ids=tokens,
            block_size=len(tokens),
            lora_id=None,
            medium=self._pool.medium,
            lora_name=None,
            group_idx=GROUP,
        )
