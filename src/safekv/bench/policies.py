"""Ways to share a prefix cache, each as something that serves requests and counts hits.

One token of the tree stands for one block of the trace. Stock engines are one LRU over keys, in
which a salt is a block of its own; safekv is the real warden over the real tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Protocol

from safekv.bench.workload import Placed, Workload
from safekv.cache import CacheConfig, PrefixTree
from safekv.errors import CacheError
from safekv.safeguard import SafeguardConfig
from safekv.types import (
    TOKEN_BYTES,
    BlockId,
    Mode,
    Profile,
    TenantId,
    Verdict,
    pack_tokens,
    unpack_tokens,
)
from safekv.warden import Warden, WardenConfig

SALT: Final = 1 << 30
"""Block numbers from here on are salts."""
TAIL: Final = pack_tokens([(1 << 31) - 1])
"""What follows the last full block; never stored."""
ENGINE: Final = TenantId("engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The budget of every policy, and how safekv's divides it.

    `capacity_blocks` is `None` for as much as is needed. `shared_share` is the part that the
    pool of shared runs has, `None` for safekv's default, and `overcommit` how many times its
    quota a tenant may hold. `quota_part` of its equal share is the quota.
    """

    capacity_blocks: int | None = None
    shared_share: float | None = None
    overcommit: float = 1.0
    quota_part: float = 1.0

    def config(self, workload: Workload, warden: WardenConfig) -> CacheConfig:
        """safekv's settings for it. Raises `ConfigError` for a division that cannot work."""
        capacity, tenants = self.capacity_blocks, len(workload.names)
        if capacity is None:
            each = workload.distinct_blocks + 1
            return CacheConfig(
                block_tokens=1,
                capacity_blocks=each * (tenants + 1),
                shared_blocks=each,
                quota_blocks=each,
            )
        config = CacheConfig(
            block_tokens=1,
            capacity_blocks=capacity,
            shared_blocks=None if self.shared_share is None else int(capacity * self.shared_share),
            overcommit=self.overcommit,
        )
        if self.quota_part < 1:
            left = capacity - warden.pool_blocks(config)
            quota = max(1, int(left / tenants * self.quota_part))
            config = replace(config, quota_blocks=quota)
        return config


UNGUARDED: Final = SafeguardConfig(
    low_diversity=0.0, surge_factor=1e12, reads_per_node=10**12, reads_per_tenant=10**12
)
"""A safeguard that never refuses and never demotes."""


class Policy(Protocol):
    """Serves requests in order of time."""

    def serve(self, placed: Placed) -> int:
        """How many leading blocks the request may reuse. Stores the others."""

    def tick(self) -> int:
        """End an epoch; how many blocks became shared."""

    def exposes(self, placed: Placed) -> bool:
        """Whether a stranger who guesses the secret prompt would see that somebody sent it."""

    def copies(self) -> tuple[int, int]:
        """How many blocks are stored, and how many different ones."""


class Blocks:
    """Free block ids: `capacity` of them, or as many as are asked for."""

    def __init__(self, capacity: int | None) -> None:
        self._new = count()
        self._free: list[BlockId] = []
        self._left = capacity

    def give_back(self, blocks: list[BlockId]) -> None:
        self._free += blocks

    def lacking(self, n: int) -> int:
        """How many of `n` blocks there are not."""
        return 0 if self._left is None else max(0, n - len(self._free) - self._left)

    def take(self, n: int) -> list[BlockId]:
        """`n` blocks, or as many as there are."""
        n -= self.lacking(n)
        taken = [self._free.pop() for _ in range(min(n, len(self._free)))]
        fresh = n - len(taken)
        if self._left is not None:
            self._left -= fresh
        return taken + [BlockId(next(self._new)) for _ in range(fresh)]


class Keyed:
    """One LRU for all, as stock engines have it. Who may reuse what is decided by the key alone:
    blocks behind a tenant's salt are that tenant's.

    `salted_from` says behind how many blocks of a request the salt stands, `None` for no salt.
    """

    def __init__(
        self,
        workload: Workload,
        memory: Memory,
        salted_from: Callable[[Placed], int | None],
    ) -> None:
        self._salts = {name: pack_tokens([SALT + n]) for n, name in enumerate(workload.names)}
        # A salt is a block of the tree but none of memory.
        spare = len(workload.names)
        budget = None
        if memory.capacity_blocks is not None:
            budget = memory.capacity_blocks + spare
        unlimited = (workload.distinct_blocks + 1) * (spare + 1)
        self._capacity = budget or unlimited
        self._tree = PrefixTree(
            CacheConfig(
                block_tokens=1, capacity_blocks=self._capacity, shared_blocks=0, reused_floor=0
            )
        )
        self._blocks = Blocks(budget)
        self._salted_from = salted_from

    def serve(self, placed: Placed) -> int:
        tokens, at = placed.tokens, self._salted_from(placed)
        if at is not None:
            cut = at * TOKEN_BYTES
            tokens = tokens[:cut] + self._salts[placed.tenant] + tokens[cut:]
        lease = self._tree.match(ENGINE, tokens)
        fits = min(len(tokens) // TOKEN_BYTES, self._capacity)
        hit = lease.n_blocks
        lacking = self._blocks.lacking(fits - hit)
        if lacking > 0:
            self._blocks.give_back(self._tree.evict(lacking, ENGINE))
        new = self._blocks.take(fits - hit)
        self._tree.insert(lease, tokens[: (hit + len(new)) * TOKEN_BYTES], new)
        self._blocks.give_back(self._tree.take_freed())
        self._tree.release(lease)
        return hit - (at is not None and hit > at)

    def tick(self) -> int:
        return 0

    def exposes(self, placed: Placed) -> bool:
        at = self._salted_from(placed)
        return at is None or at > placed.open_blocks

    def copies(self) -> tuple[int, int]:
        stored, distinct = 0, set[int]()
        for node in self._tree.nodes():
            numbers = [n for n in unpack_tokens(node.tokens()) if n < SALT]
            stored += len(numbers)
            distinct.update(numbers)
        return stored, len(distinct)


class FirstToucher(Keyed):
    """Whoever sends a block first owns it. Foreign reuse is served, and flags the block it ended
    at: from then on it goes that far and no further for those who do not own what follows.

    In the manner of CacheSolidarity (arXiv 2603.10726), as its abstract describes it: "flags
    suspicious sharing and selectively isolates prefixes". Its code was not available.
    """

    def __init__(self, workload: Workload, memory: Memory) -> None:
        super().__init__(workload, memory, self._parting)
        self._owner: dict[int, TenantId] = {}
        self._flagged: set[int] = set()

    def _parting(self, placed: Placed) -> int | None:
        flagged = False
        for n, number in enumerate(unpack_tokens(placed.tokens)):
            if flagged and self._owner.get(number, placed.tenant) != placed.tenant:
                return n
            flagged = number in self._flagged
        return None

    def serve(self, placed: Placed) -> int:
        at, numbers = self._parting(placed), unpack_tokens(placed.tokens)
        hit = super().serve(placed)
        for number in numbers[:at]:
            self._owner.setdefault(number, placed.tenant)
        ended = min(hit, len(numbers) if at is None else at)
        if ended and self._owner[numbers[ended - 1]] != placed.tenant:
            self._flagged.add(numbers[ended - 1])
        return hit

    def exposes(self, placed: Placed) -> bool:
        before = unpack_tokens(placed.tokens)[: placed.open_blocks]
        return not before or before[-1] not in self._flagged


class Guarded:
    """safekv: the real warden and its tree, with a quota for every tenant.

    In mode `declared` the prefixes in general use are the declared ones.
    """

    def __init__(
        self,
        workload: Workload,
        memory: Memory,
        warden: WardenConfig,
        safeguard: SafeguardConfig | None = None,
    ) -> None:
        self._warden = Warden(warden, memory.config(workload, warden), safeguard=safeguard)
        self._warden.open(workload.names)
        self._blocks = Blocks(memory.capacity_blocks)
        if warden.mode is Mode.DECLARED:
            self._warden.declare(list({_public(placed) for placed in workload.placed}))

    def serve(self, placed: Placed) -> int:
        tenant, warden = placed.tenant, self._warden
        lease = warden.admit(tenant, placed.tokens + TAIL)
        hit = lease.n_blocks
        new = self._make_room(tenant, placed.n_blocks - hit)
        try:
            spare = warden.store(
                tenant, lease, placed.tokens[: (hit + len(new)) * TOKEN_BYTES], new
            )
        except CacheError:
            spare = new
        self._blocks.give_back(spare)
        self._blocks.give_back(warden.take_freed())
        job = warden.computed(tenant, lease, placed.tokens)
        if job is not None:
            cleared = placed.cleared_blocks
            verdicts = [Verdict.SHAREABLE] * cleared
            verdicts += [Verdict.PRIVATE] * (job.full_blocks - cleared)
            warden.settle(job, verdicts)
        warden.release(lease)
        return hit

    def _make_room(self, tenant: TenantId, wanted: int) -> list[BlockId]:
        usage = self._warden.usage(tenant)
        wanted = min(wanted, usage.ceiling_blocks - usage.locked_blocks)
        over = wanted - (usage.ceiling_blocks - usage.charged_blocks)
        if over > 0:
            self._blocks.give_back(self._warden.evict(over, tenant))
        lacking = self._blocks.lacking(wanted)
        if lacking > 0:
            self._blocks.give_back(self._warden.evict(lacking))
        return self._blocks.take(max(0, wanted))

    def tick(self) -> int:
        promoted = self._warden.tick()
        self._blocks.give_back(self._warden.take_freed())
        return promoted

    def exposes(self, placed: Placed) -> bool:
        return self._warden.shared_blocks_of(placed.tokens) > placed.open_blocks

    def copies(self) -> tuple[int, int]:
        stored = self._warden.stored_blocks()
        return stored, stored


Make = Callable[[Workload, Memory, float], Policy]

POLICIES: Final[dict[str, Make]] = {
    "global": lambda w, m, _: Keyed(w, m, lambda placed: None),
    "isolated": lambda w, m, _: Keyed(w, m, lambda placed: 0),
    "oracle": lambda w, m, _: Keyed(
        w, m, lambda placed: placed.open_blocks if placed.secret else None
    ),
    "first-toucher": lambda w, m, _: FirstToucher(w, m),
    "safekv-isolated": lambda w, m, epoch_s: Guarded(
        w, m, WardenConfig(mode=Mode.ISOLATED, epoch_s=epoch_s)
    ),
    "safekv-declared": lambda w, m, epoch_s: Guarded(
        w, m, WardenConfig(mode=Mode.DECLARED, epoch_s=epoch_s)
    ),
    "safekv-anonymous": lambda w, m, epoch_s: Guarded(
        w, m, WardenConfig(profile=Profile.ANONYMOUS, epoch_s=epoch_s)
    ),
    "safekv-paper": lambda w, m, epoch_s: Guarded(w, m, WardenConfig(epoch_s=epoch_s)),
    "safekv-paper-unguarded": lambda w, m, epoch_s: Guarded(
        w, m, WardenConfig(epoch_s=epoch_s), UNGUARDED
    ),
}

ADVANTAGE_IF_MISSED: Final = {
    "global": 1.0,
    "isolated": 0.0,
    "oracle": 0.0,
    "first-toucher": 1.0,
    "safekv-isolated": 0.0,
    "safekv-declared": 0.0,
    "safekv-anonymous": 1 / WardenConfig().threshold_width,
    "safekv-paper": 1.0,
    "safekv-paper-unguarded": 1.0,
}
"""An attacker's advantage on one block of a secret that no detector saw, at most, in one window
(the threat model). `attacker_advantage` is what the replay counted, with the detector as dealt."""


def _public(placed: Placed) -> bytes:
    return placed.tokens[: placed.public_blocks * TOKEN_BYTES]
