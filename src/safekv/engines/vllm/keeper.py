"""safekv's part of one engine core: joins names, visibility, verdicts and the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.request import Request

from safekv.engines.vllm.hasher import keyed_of
from safekv.engines.vllm.index.wire import Kind, Run, unpack_names
from safekv.engines.vllm.keys import BlockKeys
from safekv.engines.vllm.prompt import Keyed
from safekv.engines.vllm.rename import Renamer
from safekv.engines.vllm.visible import Visibility
from safekv.errors import IsolationBroken
from safekv.types import TenantId


class Index(Protocol):
    """Where computed prompts go. `put` returns at once, and loses what does not fit."""

    def put(self, tenant: TenantId, tokens: bytes) -> None: ...

    def stop(self) -> None: ...


class NoIndex:
    """For modes in which nothing is ever promoted."""

    def put(self, tenant: TenantId, tokens: bytes) -> None:
        """Forget the prompt."""

    def stop(self) -> None:
        """Nothing to stop."""


@dataclass(slots=True)
class Counts:
    """What happened so far, for the operator: no tenant and no text."""

    admitted: int = 0
    nobodys: int = 0
    hit_blocks: int = 0
    told_blocks: int = 0
    public_blocks: int = 0


class Keeper:
    """Chooses names for requests, and applies verdicts between the engine's steps.

    All methods but `hear` and `lost` belong to the engine's thread. Nothing here grows with the
    prompt but a slice of names and one `set.update` per request.
    """

    def __init__(self, pool: BlockPool, visible: Visibility, budget_s: float) -> None:
        self.visible = visible
        self.renamer = Renamer(pool, visible, budget_s)
        self.index: Index = NoIndex()
        self.counts = Counts()
        self._block_tokens: int = pool.hash_block_size

    # -- requests --------------------------------------------------------------------------

    def admit(self, request: Request) -> None:
        """Choose the names for a lookup of `request`. O(log blocks), and one slice of names."""
        keyed = self.require(request)
        limit = max(0, request.num_tokens - 1) // self._block_tokens
        self._use(request, keyed, self.visible.admit(keyed, limit))

    def refresh(self, request: Request) -> None:
        """Choose them again if what is shared changed, before blocks are filed. O(1) if not."""
        keyed = self.require(request)
        if keyed.version != self.visible.version or len(keyed.public) != keyed.seen_blocks:
            self._use(request, keyed, self.visible.refresh(keyed))

    def told_tokens(self, request: Request, hit_tokens: int) -> int:
        """How many of the tokens found the tenant is told of; counts the admission."""
        keyed = self.require(request)
        hit = hit_tokens // self._block_tokens
        told = self.visible.told(keyed, hit)
        counts = self.counts
        counts.admitted += 1
        counts.nobodys += keyed.tenant is None
        counts.hit_blocks += hit
        counts.told_blocks += told
        counts.public_blocks += min(hit, keyed.n_public)
        return told * self._block_tokens

    def computed(self, request: Request) -> None:
        """The prompt of `request` was computed. Once; O(1) afterwards."""
        keyed = keyed_of(request)
        if keyed is None or keyed.computed:
            return
        keyed.computed = True
        self.visible.computed(keyed)
        if keyed.tenant is not None and keyed.tokens is not None:
            self.index.put(keyed.tenant, keyed.tokens)
        keyed.tokens = None

    def disown(self, request: Request) -> None:
        """Make `request` nobody's from now on: somebody else tried to go on with it."""
        keyed = self.require(request)
        keyed.tenant, keyed.tokens, keyed.reads_shared = None, None, False
        keyed.key = BlockKeys.nobody()
        keyed.private = BlockKeys.private(keyed.key, keyed.public)
        keyed.n_public = keyed.allowed = 0
        request.block_hashes[:] = keyed.private

    @staticmethod
    def require(request: Request) -> Keyed:
        """What is known of `request`. Raises `IsolationBroken` for one that was never named."""
        keyed = keyed_of(request)
        if keyed is None:
            raise IsolationBroken("a request reached the scheduler without names of its own")
        return keyed

    @staticmethod
    def _use(request: Request, keyed: Keyed, n_public: int) -> None:
        """Write the names that change into the request. O(blocks whose name changes)."""
        now, names = keyed.n_public, request.block_hashes
        if n_public > now:
            names[now:n_public] = keyed.public[now:n_public]
        elif n_public < now:
            names[n_public:now] = keyed.private[n_public:now]
        keyed.n_public = n_public

    # -- verdicts --------------------------------------------------------------------------

    def drain(self) -> None:
        """Apply verdicts, for as long as a step may take."""
        self.renamer.drain()

    def hear(self, kind: Kind, payload: bytes) -> None:
        """Take a frame of the index, in the thread that reads them. Raises `ValueError`."""
        if kind in (Kind.SHARED, Kind.PRIVATE):
            self.renamer.put(Run(payload), shared=kind is Kind.SHARED)
        elif kind is Kind.DECLARED:
            self.visible.declare(unpack_names(payload))
        elif kind is Kind.TICK:
            self.visible.tick()

    def lost(self) -> None:
        """The index is gone, with its evidence: nothing is shared from now on."""
        self.renamer.forget()
