"""The one object an engine holds. It joins the tree, the policy and the detector's verdicts.

The numbers in the comments are the steps of `docs/life-of-a-request.md`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from safekv.cache import CacheConfig, Lease, Node, PrefixTree, Tiers, TiersConfig, TreeStats
from safekv.cache.tiers import Step
from safekv.clock import Clock, SystemClock
from safekv.errors import CacheError
from safekv.events import (
    Admitted,
    Demoted,
    Event,
    EventSink,
    Evicted,
    NullSink,
    Promoted,
    Stored,
)
from safekv.safeguard import SafeguardConfig
from safekv.types import TOKEN_BYTES, BlockId, Mode, Profile, TenantId, Verdict
from safekv.warden.config import PROMOTING, WardenConfig, stricter
from safekv.warden.declared import DeclaredPrefixes
from safekv.warden.guard import Guard, demote_below
from safekv.warden.keys import Keys
from safekv.warden.policy import PromotionPolicy, promote
from safekv.warden.promotion import PromptJob, evidence_from
from safekv.warden.ripening import Ripening
from safekv.warden.schedule import ReleaseSchedule
from safekv.warden.tiers import TierWarden

UNSAFE_EVERYONE: Final = TenantId("unsafe-everyone")
"""The one namespace of `unsafe-global`."""

COMPACT_PER_EPOCH: Final = 256


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's virtual cache: what it may hold, is charged for, and cannot lose now."""

    ceiling_blocks: int
    charged_blocks: int
    locked_blocks: int

    @property
    def evictable_blocks(self) -> int:
        return self.charged_blocks - self.locked_blocks


class Warden:
    """Decides what each tenant may reuse, and is the only one that touches the tree.

    Mutable state: the tree, the evidence and the safeguard, behind one lock that is held for
    microseconds, by a tick for some milliseconds. The engine's thread calls `admit`, `store`,
    `computed`, `release`, `evict`, `forget` and `take_freed`; the detector's `settle`; the epoch's
    `declare` and `tick`; the gateway's `open` and `ceiling_blocks`; an operator's `set_mode`.
    Names are hashed in the detector's thread, outside the lock. Events leave outside the lock.

    With masked release `schedule` says when answers go out, by `visible_blocks`, and the engine
    calls `ripen` when it knows. An engine that does not tells tenants of no block of theirs.
    """

    def __init__(
        self,
        config: WardenConfig,
        cache: CacheConfig,
        events: EventSink | None = None,
        safeguard: SafeguardConfig | None = None,
        keys: Keys | None = None,
        tiers: TiersConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.block_tokens = cache.block_tokens
        # Masked, what a tenant keeps must not depend on what is shared either.
        self._tree = PrefixTree(
            replace(cache, shared_blocks=config.pool_blocks(cache)), holders_pay=config.masked
        )
        self.schedule = ReleaseSchedule(config.release_tail) if config.masked else None
        width = cache.block_tokens * TOKEN_BYTES
        self._ripening = Ripening(width, clock or SystemClock()) if config.masked else None
        self._declared = DeclaredPrefixes(cache.block_tokens)
        self._keys = keys or Keys()
        self._guard = Guard(
            safeguard or SafeguardConfig(), cache.block_tokens, self._declared, self._keys.names
        )
        self._policy = self._new_policy()
        self._global = config.mode is Mode.UNSAFE_GLOBAL
        self._returned: list[BlockId] = []
        self._lock = threading.Lock()
        self._tiers = Tiers(self._tree, tiers) if tiers is not None and tiers.host_blocks else None
        self.tiers = TierWarden(self._tiers, self._lock) if self._tiers is not None else None
        self._events = events or NullSink()
        self._on_prompt: Callable[[PromptJob], None] | None = None

    def on_prompt(self, listener: Callable[[PromptJob], None]) -> None:
        """Call `listener` with every prompt that was stored. It must return at once."""
        self._on_prompt = listener

    def on_share(self, listener: Callable[[Node, list[TenantId], bool], None]) -> None:
        """Tell `listener` of each run that becomes shared or private again, in that order, with
        the tenants that hold it. Under the lock: it must return at once."""
        self._tree.on_share(listener)

    def open(self, tenants: Iterable[TenantId]) -> None:
        """Give each of `tenants` its virtual cache, so that the first request of one does not
        make the share of another smaller. Raises `CacheError` when there are too many."""
        with self._lock:
            for holder in map(self.namespace, tenants):
                self._tree.open(holder)
                if self._tiers is not None:
                    self._tiers.open(holder)

    def namespace(self, tenant: TenantId) -> TenantId:
        """Whose cache `tenant` uses: its own, but in `unsafe-global` everybody's."""
        return UNSAFE_EVERYONE if self.config.mode is Mode.UNSAFE_GLOBAL else tenant

    def declare(self, prefixes: Sequence[bytes]) -> None:
        """Let exactly `prefixes`, as token bytes, be shared once somebody has computed them.

        Takes effect at the next tick, revocations too. The caller has verified who asks.
        """
        with self._lock:
            self._declared.replace(prefixes)

    def set_mode(self, mode: Mode, profile: Profile | None = None) -> int:
        """Share less from now on: `mode`, and under `selective` perhaps another `profile`.

        Takes effect at once: everything shared is private again, and only what meets the
        stricter conditions becomes shared at later ticks. Returns the demoted blocks. Raises
        `ConfigError` for what would share more; nothing changed then.
        """
        with self._lock:
            self.config = stricter(self.config, mode, profile or self.config.profile)
            self._policy = self._new_policy()
            demoted = demote_below(self._tree, b"")
            everyone = self._tree.charged_blocks(UNSAFE_EVERYONE) if self._global else 0
            if everyone:
                self._returned += self._tree.evict(everyone, UNSAFE_EVERYONE)
            self._global = False
        if demoted:
            self._emit(Demoted(demoted))
        return demoted

    def _new_policy(self) -> PromotionPolicy:
        guard = self._guard
        return PromotionPolicy(
            self.config, guard.monitor.names, guard.quarantine, self._keys.thresholds
        )

    # -- the request path ------------------------------------------------------------------

    def admit(self, tenant: TenantId, tokens: bytes, max_blocks: int | None = None) -> Lease:
        """Step 3: the blocks of `tokens` that `tenant` may reuse, locked until `release`.

        At most `max_blocks`, and at least one token is left to compute, since its logits are
        needed. A tenant that read too much of what others sent gets its own alone. O(tokens).
        """
        most = max(0, len(tokens) // TOKEN_BYTES - 1) // self.block_tokens
        with self._lock:
            holder = self.namespace(tenant)
            lease = self._tree.match(
                holder, tokens, most if max_blocks is None else min(most, max_blocks)
            )
            if not self._guard.allows(lease):
                self._tree.release(lease)
                lease = self._tree.match(holder, tokens, lease.own_blocks)
            if self._ripening is not None:
                self._ripening.begin(holder, lease, tokens, self._visible_blocks(lease))
        return lease

    def visible_blocks(self, lease: Lease) -> int:
        """How many of the blocks just found the tenant may be told of: its own and declared ones.

        With masked release its own count once the answer that brought them is out.
        """
        with self._lock:
            return self._visible_blocks(lease)

    def _visible_blocks(self, lease: Lease) -> int:
        own = lease.own_blocks
        if self._ripening is not None:
            own = self._ripening.visible_blocks(lease.tenant, lease.tokens, own)
        return max(own, min(lease.hit_blocks, self._declared.blocks_of(lease.tokens)))

    def ripen(self, lease: Lease, due_s: float) -> None:
        """The first token of the request's answer goes out at `due_s`, on the warden's clock."""
        if self._ripening is not None:
            with self._lock:
                self._ripening.end(lease.tenant, lease, due_s)

    def store(
        self, tenant: TenantId, lease: Lease, tokens: bytes, blocks: Sequence[BlockId]
    ) -> list[BlockId]:
        """Step 6: keep `blocks`, the KV of the blocks of `tokens` behind the lease, as private.

        Returns those that are not needed since the same content was stored already: the caller
        frees them and uses the blocks that the lease names now. Raises `CacheError` when the
        tenant's quota cannot hold them; nothing was stored then.
        """
        with self._lock:
            duplicates = self._tree.insert(lease, tokens, blocks)
            if self._ripening is not None:
                self._ripening.stored(lease.tenant, lease)
        self._emit(Stored(tenant, len(blocks) - len(duplicates), len(duplicates)))
        return duplicates

    def computed(self, tenant: TenantId, lease: Lease, prompt: bytes) -> PromptJob | None:
        """Count a prompt that was computed; what the detector should see of it, if anything.

        The tenant becomes a holder of what it read. `None` when nothing is left to decide:
        no full block, all of them shared already, or a mode that never promotes.
        """
        n_tokens, width = len(prompt) // TOKEN_BYTES, self.block_tokens
        hit, own = lease.hit_blocks * width, lease.own_blocks * width
        with self._lock:
            self._adopt(lease)
            shared = self._tree.shared_blocks_of(prompt)
            self._declared.note(lease.tenant, prompt)
            self._guard.note(tenant, prompt, lease.own_blocks, lease.hit_blocks)
        self._emit(Admitted(tenant, n_tokens, hit, own))
        full = n_tokens // width
        if full <= shared or self.config.mode is not Mode.SELECTIVE:
            return None
        return PromptJob(tenant, prompt, full, lease.hit_blocks)

    def _adopt(self, lease: Lease) -> None:
        try:
            self._tree.adopt(lease)
        except CacheError:  # holders pay, and the tenant's share became smaller meanwhile
            return
        if self._ripening is not None:
            self._ripening.stored(lease.tenant, lease)

    def submit(self, job: PromptJob) -> None:
        """Step 7: hand a prompt to the detector, without waiting.

        Generated tokens never come here: they stay private until someone sends them.
        """
        if self._on_prompt is not None:
            self._on_prompt(job)

    def release(self, lease: Lease) -> None:
        """Step 6, last: let the lease's blocks be evicted again. Safe to call twice."""
        with self._lock:
            self._tree.release(lease)
            if self._ripening is not None:
                self._ripening.abandon(lease.tenant, lease)

    def evict(self, n_blocks: int, tenant: TenantId | None = None) -> list[BlockId]:
        """Let claims of `tenant` lapse until `n_blocks` of its quota are free, or free that many
        blocks of whoever is furthest over quota; the blocks nobody holds now.

        Least recently used first, and nothing that a running request needs.
        """
        with self._lock:
            holder = None if tenant is None else self.namespace(tenant)
            freed, steps = self._tree.evict(n_blocks, holder), self._take_steps()
        return self._free(freed, steps)

    def forget(self, tenant: TenantId) -> list[BlockId]:
        """Remove everything `tenant` alone holds, in all tiers; the blocks on the device.

        What is shared stays. Raises `CacheError` while the tenant has running requests or copies
        under way; nothing was removed then. In `unsafe-global` nothing is anybody's own.
        """
        with self._lock:
            if self._tiers is not None:
                self._tiers.require_idle(tenant)
            freed = self._tree.forget(tenant)
            if self._tiers is not None:
                self._tiers.forget(tenant)
            steps = self._take_steps()
        return self._free(freed, steps)

    def clear(self) -> list[BlockId]:
        """Forget everything that no running request needs, for all tenants; the blocks."""
        with self._lock:
            freed = self._tree.clear() if self._tiers is None else self._tiers.clear()
            steps = self._take_steps()
        return self._moved(freed, steps)

    def take_freed(self) -> list[BlockId]:
        """The blocks that nobody holds since the last call; the caller owns them again."""
        with self._lock:
            freed = self._returned + self._tree.take_freed()
            self._returned = []
            steps = self._take_steps()
        return self._free(freed, steps)

    def _take_steps(self) -> Sequence[Step]:
        return self._tiers.take_steps() if self._tiers is not None else ()

    def _free(self, freed: list[BlockId], steps: Sequence[Step]) -> list[BlockId]:
        if freed:
            self._emit(Evicted(len(freed)))
        return self._moved(freed, steps)

    def _moved(self, freed: list[BlockId], steps: Sequence[Step]) -> list[BlockId]:
        """`freed`, once what they hold was moved."""
        if self.tiers is not None:
            self.tiers.perform(steps)
        return freed

    # -- off the request path --------------------------------------------------------------

    def settle(self, job: PromptJob, verdicts: Sequence[Verdict]) -> None:
        """Step 8, first half: remember what of `job` was cleared, until the next tick.

        Only clearing counts. A veto leaves no trace, so nobody can learn from what is
        promoted later that another tenant's text was vetoed.
        """
        evidence = evidence_from(job, verdicts, self.block_tokens)
        if evidence is None or self.config.mode is not Mode.SELECTIVE:
            return
        policy = self._policy
        named = policy.named(evidence)
        with self._lock:
            # A mode set meanwhile has a policy of its own, and wants evidence of its own.
            if policy is self._policy:
                policy.add(named)

    def tick(self) -> int:
        """Step 8, second half: end the epoch. Demote what looks probed or was revoked, promote
        what was cleared or declared. Returns the promoted blocks."""
        with self._lock:
            n_tenants = self._tree.tenants
        if self.schedule is not None:
            self.schedule.look()
        suspicions = self._guard.monitor.end_epoch(n_tenants)
        policy = self._policy
        with self._lock:
            self._tree.end_epoch()
            suspected = self._guard.demote(self._tree, suspicions)
            waiting = [(one, self._tree.shared_blocks_of(one.tokens)) for one in policy.take()]
        decided = [(one, policy.promotable(one, shared), shared) for one, shared in waiting]
        with self._lock:
            mode = self.config.mode
            demoted, promoted = self._declared.apply(self._tree, promotes=mode in PROMOTING)
            if policy is self._policy and mode is Mode.SELECTIVE:
                promoted += promote(self._tree, policy, decided)
                policy.end_epoch()
            self._tree.compact(COMPACT_PER_EPOCH)
        for event in (*suspected, *([Demoted(demoted)] if demoted else ())):
            self._emit(event)
        if promoted:
            self._emit(Promoted(promoted))
        return promoted

    # -- facts -----------------------------------------------------------------------------

    def usage(self, tenant: TenantId) -> Usage:
        """What `tenant` holds and may hold, from its own history alone. O(its leases)."""
        holder = self.namespace(tenant)
        with self._lock:
            return Usage(
                self._tree.ceiling_blocks(holder),
                self._tree.charged_blocks(holder),
                self._tree.locked_blocks(holder),
            )

    def ceiling_blocks(self, tenant: TenantId) -> int:
        """How many blocks `tenant` may hold, running requests included."""
        with self._lock:
            return self._tree.ceiling_blocks(self.namespace(tenant))

    def shared_blocks_of(self, tokens: bytes) -> int:
        """How many leading blocks of `tokens` every tenant may reuse; for the operator."""
        with self._lock:
            return self._tree.shared_blocks_of(tokens)

    def stored_blocks(self) -> int:
        """How many blocks the tree holds now, and how many wait to be taken back."""
        with self._lock:
            return self._tree.stored_blocks + self._tree.freed_blocks + len(self._returned)

    def stats(self) -> TreeStats:
        """Sizes now, for the operator only. O(tenants)."""
        with self._lock:
            return self._tree.stats()

    def check(self) -> None:
        """Raise `IsolationBroken` unless the tree's invariants hold. O(tree)."""
        with self._lock:
            self._tree.check()
            if self._tiers is not None:
                self._tiers.check()

    def _emit(self, event: Event) -> None:
        self._events.emit(event)
