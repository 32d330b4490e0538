"""The warden over vLLM's blocks: it knows texts and who computed them, and owns no memory.

vLLM keeps the KV and decides what is evicted. The index keeps the same prefix tree as the
embedded engine, whose block ids stand here for names of blocks instead of for pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from safekv.cache import CacheConfig, Node
from safekv.engines.vllm.index.wire import FRAME_BLOCKS, Kind, pack_names, pack_run
from safekv.engines.vllm.keys import ROOT, BlockKeys
from safekv.errors import CacheError
from safekv.events import EventSink
from safekv.safeguard import SafeguardConfig
from safekv.types import TOKEN_BYTES, BlockId, TenantId, unpack_blocks
from safekv.warden import Keys, PromptJob, Warden, WardenConfig

Say = Callable[[Kind, bytes], None]


class IndexBook:
    """Takes prompts that were computed, and says which blocks become shared or private again.

    `say` hears it in the order in which it happens, under the warden's lock, and must return
    at once: parents become shared before what lies behind them, and private after it. So
    whoever applies the frames one block at a time has a prefix-closed set at every moment.
    `computed` is for one thread; `tick` and `declare` may be called from another.
    Mutable state: the warden, and a name for each block id in the tree.
    """

    def __init__(
        self,
        warden: WardenConfig,
        cache: CacheConfig,
        safeguard: SafeguardConfig,
        names: BlockKeys,
        say: Say,
        *,
        events: EventSink | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.warden = Warden(warden, cache, events, safeguard, keys)
        self.warden.on_share(self._tell)
        self._block_tokens = cache.block_tokens
        self._width = cache.block_tokens * TOKEN_BYTES
        self._keys, self._say = names, say
        self._names: dict[BlockId, bytes] = {}
        self._free: list[BlockId] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._names)

    def computed(self, tenant: TenantId, tokens: bytes) -> PromptJob | None:
        """Remember a prompt that `tenant` computed; what the detector should see of it.

        `None` where nothing is left to decide, and where the tenant's quota of the index has no
        room: then the prompt stays private. O(tokens).
        """
        full = len(tokens) // self._width
        lease = self.warden.admit(tenant, tokens)
        try:
            new = self._take(lease.blocks, tokens[: full * self._width])
            try:
                self._forget(self.warden.store(tenant, lease, tokens[: full * self._width], new))
            except CacheError:
                self._forget(new)
                return None
            return self.warden.computed(tenant, lease, tokens)
        finally:
            self.warden.release(lease)
            self._forget(self.warden.take_freed())

    def declare(self, prefixes: Sequence[bytes]) -> None:
        """Let exactly `prefixes`, as token bytes, be shared once somebody has computed them."""
        self.warden.declare(prefixes)
        names = (self._keys.chain(ROOT, tokens, self._block_tokens) for tokens in prefixes)
        self._say(Kind.DECLARED, pack_names(sorted({name for one in names for name in one})))

    def tick(self) -> int:
        """End the epoch; the promoted blocks."""
        promoted = self.warden.tick()
        self._say(Kind.TICK, b"")
        return promoted

    def _take(self, leased: Sequence[BlockId], tokens: bytes) -> list[BlockId]:
        """Ids for the blocks of `tokens` behind the `leased` ones, with their names."""
        parent = self._names[leased[-1]] if leased else ROOT
        names = self._keys.chain(parent, tokens[len(leased) * self._width :], self._block_tokens)
        ids = [self._free.pop() for _ in islice(self._free.copy(), len(names))]
        fresh = range(self._next, self._next + len(names) - len(ids))
        self._next = fresh.stop
        ids += map(BlockId, fresh)
        self._names.update(zip(ids, names, strict=True))
        return ids

    def _forget(self, blocks: Sequence[BlockId]) -> None:
        for block in blocks:
            del self._names[block]
        self._free += blocks

    def _tell(self, node: Node, tenants: Sequence[TenantId], shared: bool) -> None:
        """Say that the run of `node` became shared, or is private again, to its holders."""
        names = [self._names[block] for block in unpack_blocks(node.blocks)]
        parent = self._parent_name(node)
        keys = [self._keys.tenant(tenant) for tenant in tenants]
        tokens, width = node.tokens(), self._width
        kind = Kind.SHARED if shared else Kind.PRIVATE
        starts = range(0, len(names), FRAME_BLOCKS)
        for at in starts if shared else reversed(starts):
            some = names[at : at + FRAME_BLOCKS]
            private = [self._keys.private(key, some) for key in keys]
            before = names[at - 1] if at else parent
            run = tokens[at * width : (at + len(some)) * width]
            self._say(kind, pack_run(self._block_tokens, before, some, run, private))

    def _parent_name(self, node: Node) -> bytes:
        above = node.parent
        if above is None or above.parent is None:
            return ROOT
        return self._names[unpack_blocks(above.blocks)[-1]]
