"""The paged cache of transformers' continuous batching, with safekv's tree as its prefix cache.

transformers finds reusable blocks by an unkeyed 64-bit hash and trusts it without comparing
tokens. Here the warden decides instead, per tenant and by equality; pages, pools, read and
write indices stay transformers' own.
"""

from __future__ import annotations

from typing import Any

from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import BlockLedger
from transformers.generation.continuous_batching.requests import RequestState

from safekv.cache import Lease
from safekv.clock import Clock, SystemClock
from safekv.engines.hf.admission import Admission, Admissions, Held
from safekv.engines.hf.cloaked.prepare import Cloaking
from safekv.engines.hf.tiers.mover import Mover, TierSetup
from safekv.errors import CacheError, IsolationBroken, ModelError
from safekv.types import BlockId, TenantId, pack_tokens
from safekv.warden import Prefill, PromptJob, ReleaseSchedule, TierWarden, Warden


class ClosedLedger(BlockLedger):  # type: ignore[misc]
    """transformers' hash ledger with its doors shut: any use of it is a bug of ours."""

    def acquire(self, block_id: int) -> None:
        raise IsolationBroken("transformers' own prefix cache was asked to share a block")

    def register_new_hash(self, block_id: int, block_hash: int) -> int | None:
        raise IsolationBroken("transformers' own prefix cache was asked to store a hash")


class SelectiveCache(PagedAttentionCache):  # type: ignore[misc]
    """A `PagedAttentionCache` whose reuse, storage and eviction go through the warden.

    Called from the engine's thread only. A block is in exactly one place: the free pool, a
    running request's table, or the tree. With `cloaking` blocks lie there obfuscated. Raises
    `ModelError` for models with layers other than full attention.
    """

    def __init__(
        self,
        *args: Any,
        warden: Warden,
        admissions: Admissions,
        tiers: TierSetup | None = None,
        cloaking: Cloaking | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock or SystemClock()
        kinds = sorted(self.cache_allocators)
        if kinds != [FULL_ATTENTION]:
            raise ModelError(
                f"the model has {', '.join(kinds)} layers",
                "use a model with full attention only; others cannot share prefixes yet",
            )
        # Write to every page of memory once. The first touch of a page is slow, so without this a
        # request would be slower when its blocks are new to the machine, and another tenant's
        # probe could tell whether blocks were freed before it.
        self.cache_tensor.fill_(0)
        self._allocator = self.cache_allocators[FULL_ATTENTION]
        self._allocator.ledger = ClosedLedger()
        self._warden = warden
        self._admissions = admissions
        self._held: dict[str, Held] = {}
        self._jobs: list[PromptJob] = []
        self._pages = cloaking(self._allocator) if cloaking is not None else None
        if self._pages is not None:
            self._allocator.update = self._pages.update
        self._mover: Mover | None = None
        if warden.tiers is not None and tiers is not None:
            page = int(self._allocator.tokens_per_page)
            rows = self._allocator._copy_view
            self._mover = Mover(warden.tiers, rows, page, tiers, self._pages)

    # -- reuse and storage -----------------------------------------------------------------

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        """Step 3: lease what the request's tenant may reuse; returns the matched tokens.

        The scheduler asks again for a request that had to wait, so an older lease of it is
        given back first. A request without an admission matches nothing.
        """
        self._drop(request_id)
        admission = self._admissions.get(request_id)
        if admission is None:
            return 0
        tokens = pack_tokens(prompt_ids)
        lease = self._warden.admit(admission.tenant, tokens)
        if self._mover is not None and self._warden.tiers is not None:
            self._onload(self._mover, self._warden.tiers, admission, lease)
        page, promised = int(self._allocator.tokens_per_page), 0
        if self._schedule is not None:
            lease, promised = self._promise(admission, lease, tokens, -(-len(prompt_ids) // page))
        self._held[request_id] = Held(lease, admission, lease.n_blocks, promised)
        admission.set_back = admission.started
        if not admission.started:
            admission.cached_tokens = self._warden.visible_blocks(lease) * page
            admission.scheduled_s = self._clock.now_s()
        if lease.n_blocks:
            self._allocator.block_table[request_id] = lease.blocks
        return lease.n_blocks * page

    @property
    def _schedule(self) -> ReleaseSchedule | None:
        """When first tokens go out, while release is masked."""
        return self._warden.schedule if self._warden.config.masked else None

    def _promise(
        self, admission: Admission, lease: Lease, tokens: bytes, n_blocks: int
    ) -> tuple[Lease, int]:
        """Make room in the tenant's quota for all `n_blocks` of a prompt, found or not.

        Where there is none, nothing is promised and nothing that was found shared is used: the
        request then waits as it would if nobody had shared anything.
        """
        wanted = n_blocks - lease.own_blocks
        room, evictable = self.room_blocks(admission)
        if wanted <= room + evictable:
            if wanted > room:
                self._give_back(self._warden.evict(wanted - room, admission.tenant))
            return lease, n_blocks
        if lease.hit_blocks > lease.own_blocks:
            own = lease.own_blocks
            self._warden.release(lease)
            lease = self._warden.admit(admission.tenant, tokens, own)
        return lease, 0

    def _onload(self, mover: Mover, tiers: TierWarden, admission: Admission, lease: Lease) -> None:
        """Step 4: bring up what host memory has of the prompt, as far as the quota allows."""
        below = tiers.below(lease)
        if below is None:
            return
        room, evictable = self.room_blocks(admission)
        n = min(len(below.blocks), room + evictable)
        if n > room:
            self._give_back(self._warden.evict(n - room, admission.tenant))
        targets = self._take(n)
        if not targets:
            tiers.leave(below)
            return
        mover.onload(below.blocks[: len(targets)], targets)
        try:
            self._give_back(tiers.onload(lease, below, targets))
        except CacheError:
            # The tenant's share became smaller meanwhile: a miss.
            self._give_back(targets)
        self._give_back(self._warden.take_freed())

    def _take(self, n_blocks: int) -> list[BlockId]:
        """`n_blocks` blocks of the pool, or fewer when memory is overcommitted and full."""
        self._give_back(self._warden.take_freed())
        lacking = n_blocks - self._unused_blocks()
        if lacking > 0:
            self._give_back(self._warden.evict(lacking))
        n_blocks = max(0, min(n_blocks, self._unused_blocks()))
        index = self._allocator.index
        while self.pool.count_free_blocks(index) < n_blocks:
            self.pool.allocate_sector(index)
        return [BlockId(block) for block in self.pool.get_free_blocks(index, n_blocks)]

    def waits_for_disk(self, state: RequestState) -> bool:
        """Whether a waiting request's blocks are being read from disk. Asking orders them."""
        admission = self._admissions.get(state.request_id)
        if self._mover is None or admission is None:
            return False
        tenant = self._warden.namespace(admission.tenant)
        return self._mover.waits(
            state.request_id, tenant, lambda: pack_tokens(state.remaining_prefill_tokens)
        )

    def mark_complete_blocks(self, state: RequestState, complete_blocks: dict[str, int]) -> None:
        """Step 6: store the blocks that the last forward pass filled; remember whole prompts."""
        held = self._held.get(state.request_id)
        table = self._allocator.block_table.get(state.request_id)
        if self._pages is not None and table is not None:
            # Before anybody else can reuse, evict or copy them.
            self._pages.filled(table[: state.position_offset // self._allocator.tokens_per_page])
        if held is None or table is None:
            return
        admission = held.admission
        if self._schedule is not None and not admission.started:
            new = admission.prompt_tokens - admission.cached_tokens
            admission.due_s = self._schedule.due_s(
                admission.tenant, admission.scheduled_s, new, admission.cached_tokens
            )
        admission.started = True
        new = complete_blocks.get(FULL_ATTENTION, 0)
        if new:
            self._store(held, table, state, held.stored_blocks + new)
        if not admission.submitted and state.position_offset >= admission.prompt_tokens:
            admission.submitted = True
            prompt = pack_tokens(state.initial_tokens[: admission.prompt_tokens])
            if job := self._warden.computed(admission.tenant, held.lease, prompt):
                self._jobs.append(job)
            if self._schedule is not None:
                self._release(self._schedule, held)

    def _release(self, schedule: ReleaseSchedule, held: Held) -> None:
        """The first token is there: it goes out when it is due, or now if that is past."""
        admission, now = held.admission, self._clock.now_s()
        if not admission.set_back:
            found = held.lease.hit_blocks * int(self._allocator.tokens_per_page)
            took = Prefill(admission.prompt_tokens - found, found, now - admission.scheduled_s)
            schedule.measure(admission.tenant, took, late=now > admission.due_s)
        admission.due_s = max(now, admission.due_s)
        self._warden.ripen(held.lease, admission.due_s)

    def submit_jobs(self) -> None:
        """Step 7: hand in the prompts computed in the last step, now that their tokens are out."""
        while self._jobs:
            self._warden.submit(self._jobs.pop())

    def _store(self, held: Held, table: list[int], state: RequestState, n_blocks: int) -> None:
        n_tokens = n_blocks * self._allocator.tokens_per_page
        tokens = pack_tokens((state.initial_tokens + state.generated_tokens)[:n_tokens])
        start = held.stored_blocks
        mine = [BlockId(block) for block in table[start:n_blocks]]
        try:
            duplicates = self._warden.store(held.admission.tenant, held.lease, tokens, mine)
        except CacheError:
            # The tenant's share became smaller meanwhile: the blocks stay with the request.
            return
        if duplicates:
            table[:n_blocks] = held.lease.blocks
        held.stored_blocks = n_blocks
        self._give_back(duplicates)
        self._give_back(self._warden.take_freed())

    def _give_back(self, blocks: list[BlockId]) -> None:
        if self._pages is not None:
            self._pages.freed(blocks)
        self.pool.free_blocks(self._allocator.index, blocks)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        """Give a request's blocks back: the tree keeps what it stored, the pool gets the rest."""
        table = self._allocator.block_table.pop(request_id, [])
        held = self._held.get(request_id)
        stored = held.stored_blocks if held is not None else 0
        self._give_back(table[stored:])
        self._drop(request_id)
        if self._mover is not None:
            self._mover.done(request_id)

    def _drop(self, request_id: str) -> None:
        held = self._held.pop(request_id, None)
        if held is not None:
            self._warden.release(held.lease)

    # -- memory ----------------------------------------------------------------------------

    def can_store_request_tokens(
        self, state: RequestState, request_len: int, dry_run: bool = False
    ) -> bool:
        """Whether the new tokens fit the tenant's quota, after evicting exactly what they lack.

        What fits the quotas fits memory too, unless they are overcommitted or a tenant came
        after the start: then those over their quota lose what is lacking.
        """
        needed = self._allocator.needs_new_blocks(
            state.request_id, state.current_len(), request_len
        )
        if needed <= 0:  # most steps of an answer
            return dry_run or bool(super().can_store_request_tokens(state, request_len))
        held = self._held.get(state.request_id)
        if held is not None:
            # What was promised is in no other request's room.
            has = len(self._allocator.block_table.get(state.request_id, ()))
            lacking = min(needed, has + needed - held.promised_blocks)
            if not self._fits_quota(held.admission, max(0, lacking), dry_run):
                return False
        self._give_back(self._warden.take_freed())
        lacking = needed - self._unused_blocks()
        if lacking > 0 and not dry_run:
            self._give_back(self._warden.evict(lacking))
        return dry_run or bool(super().can_store_request_tokens(state, request_len))

    def _fits_quota(self, admission: Admission, needed: int, dry_run: bool) -> bool:
        room, evictable = self.room_blocks(admission)
        if needed > room + evictable:
            return False
        if needed > room and not dry_run:
            self._give_back(self._warden.evict(needed - room, admission.tenant))
        return True

    def room_blocks(self, admission: Admission) -> tuple[int, int]:
        """How many blocks the tenant may take now, and how many more after evicting its own.

        Depends on the tenant's own requests and cache alone. A running request keeps the ceiling
        it was admitted under.
        """
        usage = self._warden.usage(admission.tenant)
        ceiling = max(usage.ceiling_blocks, admission.ceiling_blocks)
        running = self._reserved_blocks(self._warden.namespace(admission.tenant))
        return ceiling - usage.charged_blocks - running, usage.evictable_blocks

    def perform_cache_copy(self, copy_src_and_dst: dict[str, tuple[list[int], list[int]]]) -> None:
        """Refused: two requests would go on with one partial block, and with one keystream."""
        raise IsolationBroken("transformers was to copy blocks from one request to another")

    def count_storable_requests(self, list_blocks_needed: list[dict[str, int]]) -> int:
        """None: whom to set back is `PatientScheduler`'s choice, and it has made it."""
        return 0

    def compute_free_capacity(self, relative: bool = True) -> int | float:
        """Unused capacity in bytes, or as a share of the whole."""
        free = self._unused_blocks()
        if relative:
            return free / max(1, int(self._allocator.num_blocks))
        return int(free * self._allocator.bytes_per_block)

    def evict_cached_blocks(self) -> bool:
        """Nothing: eviction happens block by block, when and as far as a request needs it."""
        return False

    def _running_blocks(self) -> int:
        """Blocks in running requests' tables that the tree does not own. O(requests)."""
        held = self._held
        return sum(
            len(table) - (held[request_id].stored_blocks if request_id in held else 0)
            for request_id, table in self._allocator.block_table.items()
        )

    def _reserved_blocks(self, namespace: TenantId) -> int:
        """What requests of one tenant hold beside what it is charged for. O(requests)."""
        tables = self._allocator.block_table
        return sum(
            held.reserved_blocks(len(tables.get(request_id, ())))
            for request_id, held in self._held.items()
            if held.lease.tenant == namespace
        )

    def _unused_blocks(self) -> int:
        allocator = self._allocator
        in_sectors = self.pool.num_free_sectors * allocator.blocks_per_sector
        return int(self.pool.count_free_blocks(allocator.index) + in_sectors)

    def admission(self, request_id: str) -> Admission | None:
        """Whose request it is, `None` for one that nobody admitted.

        A running request keeps its admission when its client has gone.
        """
        held = self._held.get(request_id)
        return held.admission if held is not None else self._admissions.get(request_id)

    def free_all_requests(self, clear_ledgers: bool = False) -> None:
        """Free every running request's blocks; with `clear_ledgers` also empty the tree.

        Shared runs too: after a reset of the pool nothing that was stored may be read.
        """
        for request_id in list(self._allocator.block_table):
            self.free_blocks(request_id)
        if clear_ledgers:
            self._give_back(self._warden.clear())
            if self._mover is not None:
                self._mover.wipe()

    def forget(self, tenant: TenantId) -> None:
        """Delete all that `tenant` alone has, in all tiers. Between two steps of the loop only.

        Raises `CacheError` while it has running requests; nothing was deleted then.
        """
        self._give_back(self._warden.forget(tenant))
        if self._mover is not None:
            self._mover.forget(tenant)

    def lapse(self, tenant: TenantId) -> None:
        """Let all of `tenant` lapse that no running request needs. Between two steps only."""
        self._give_back(self._warden.evict(int(self._allocator.num_blocks), tenant))

    def copies_waiting(self) -> int:
        """Blocks that wait to be written to disk."""
        return self._mover.backlog() if self._mover is not None else 0

    def stop_copies(self) -> None:
        """Write to disk what waits for it; afterwards nothing more is written."""
        if self._mover is not None:
            self._mover.stop()

    def check(self) -> None:
        """Raise `IsolationBroken` unless every block is in exactly one place. O(blocks)."""
        self._warden.check()
        total = self._unused_blocks() + self._running_blocks() + self._warden.stored_blocks()
        if total != self._allocator.num_blocks:
            raise IsolationBroken(f"{self._allocator.num_blocks} blocks, {total} accounted for")
