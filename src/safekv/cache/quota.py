"""What each holder may keep: an account with a quota, its own clock and its own queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final

from safekv.cache.config import CacheConfig
from safekv.cache.lease import Lease
from safekv.cache.node import Claim, Holder, Node
from safekv.cache.order import Order, put_in_place_of, take_out
from safekv.errors import CacheError
from safekv.types import Scope, TenantId

EPOCH_BITS: Final = 32


class Account:
    """A holder's virtual cache: what it is charged for, and which claim of it is oldest.

    `clock` is the time of the holder's last use. All tenants' uses take their times from one
    count, so that they can be compared when memory is overcommitted; within an account only the
    order of its own uses counts, which depends on nobody else. Claims whose last block was never
    matched again (`fresh`) and those whose was wait in two orders; `reused_blocks` of the charged
    blocks are of the second kind.
    """

    __slots__ = (
        "_fresh",
        "_reused",
        "_times",
        "charged_blocks",
        "clock",
        "explicit_blocks",
        "holder",
        "leases",
        "pays_shared",
        "reused_blocks",
    )

    def __init__(
        self,
        holder: Holder,
        quota_blocks: int | None,
        times: Iterator[int],
        *,
        pays_shared: bool = False,
    ) -> None:
        self.holder = holder
        self.pays_shared = pays_shared
        self._times = times
        self.explicit_blocks = quota_blocks
        self.charged_blocks = self.reused_blocks = 0
        self.clock = 0
        self.leases: dict[Lease, None] = {}  # oldest first
        self._fresh, self._reused = Order(reused=False), Order(reused=True)

    def tick(self) -> int:
        """The next moment, for a use by this holder."""
        self.clock = next(self._times)
        return self.clock

    def _order(self, claim: Claim) -> Order:
        return self._reused if claim.all_reused else self._fresh

    def touch(self, claim: Claim) -> None:
        """Put a claim that was used just now last. O(1)."""
        self._order(claim).touch(claim)

    def offer(self, claim: Claim) -> None:
        """Let a claim wait that was used some time ago, unless it waits already. O(log n)."""
        if claim.before is None:
            self._order(claim).insert(claim)

    def remove(self, claim: Claim) -> None:
        """Let a claim wait no more. O(1)."""
        take_out(claim)

    def used_now(self, claim: Claim) -> None:
        """Put a claim last whose time of use has changed, if it may lapse; else take it out."""
        if claim.may_lapse(self.holder, self.pays_shared):
            self.touch(claim)
        else:
            self.remove(claim)

    def replace(self, claim: Claim, heir: Claim) -> None:
        """Let `heir`, with the same uses, wait where `claim` waits."""
        put_in_place_of(claim, heir, self._order(heir))

    def first(self, floor_blocks: float) -> Claim | None:
        """The claim to lapse next, or `None`. O(log claims) amortised.

        The one used least recently, but while no more than `floor_blocks` re-used blocks are
        left a fresh one goes first: a flood of prompts that nobody repeats costs at most the
        rest of the quota.
        """
        fresh = self._fresh.first(self.may_lapse)
        reused = self._reused.first(self.may_lapse)
        claim = fresh
        if fresh is None or (
            reused is not None and self.reused_blocks > floor_blocks and reused.used < fresh.used
        ):
            claim = reused
        return claim

    def pop(self, floor_blocks: float) -> Claim | None:
        """The claim to lapse next, which no longer waits, or `None`."""
        claim = self.first(floor_blocks)
        if claim is not None:
            take_out(claim)
        return claim

    def may_lapse(self, claim: Claim) -> bool:
        """Whether the claim is one still, is charged, and nothing hangs below it."""
        return claim.may_lapse(self.holder, self.pays_shared)

    def waiting(self) -> Iterator[Claim]:
        """All claims that wait, in no order of value."""
        yield from self._fresh
        yield from self._reused


Read = tuple[bytes, int, int]


class Pool(Account):
    """The shared pool's account. Reads of shared runs count when the epoch ends, not before.

    Within an epoch they count alike, in the order of promotion, so that nobody can learn
    from what is replaced when, within the epoch, somebody else read something.
    """

    __slots__ = ("_reads", "_touched", "epoch", "serial")

    def __init__(self, quota_blocks: int) -> None:
        super().__init__(Scope.SHARED, quota_blocks, count(), pays_shared=True)
        self.epoch = self.serial = 0
        self._touched: set[Claim] = set()
        self._reads: dict[tuple[Node, int], Read] = {}

    def tick(self) -> int:
        """The time of a run that is promoted now."""
        self.serial += 1
        self.clock = (self.epoch << EPOCH_BITS) | self.serial
        return self.clock

    def note_read(self, node: Node, n_blocks: int, tokens: bytes, total_blocks: int) -> None:
        """Remember until the epoch ends that `total_blocks` shared blocks of `tokens` were read.

        They end behind the first `n_blocks` of `node`. Reads that end there count once.
        """
        now = (self.epoch << EPOCH_BITS) | node.born
        self._reads.setdefault((node, n_blocks), (tokens, total_blocks, now))

    def take_reads(self) -> list[Read]:
        """What was read in this epoch: tokens, how many blocks of them, and the time it counts."""
        reads = list(self._reads.values())
        self._reads.clear()
        return reads

    def read(self, node: Node, n_blocks: int, now: int) -> None:
        """The first `n_blocks` blocks of the shared run `node` were read at `now`."""
        claim = node.claim(Scope.SHARED)
        assert claim is not None, "only shared runs are read from the pool"
        before = claim.used
        claim.mark(n_blocks, node.size, now)
        if claim.used > before:
            self.touch(claim)

    def touch(self, claim: Claim) -> None:
        self._touched.add(claim)

    def remove(self, claim: Claim) -> None:
        super().remove(claim)
        self._touched.discard(claim)

    def waiting(self) -> Iterator[Claim]:
        yield from super().waiting()
        yield from self._touched

    def end_epoch(self) -> None:
        """Put what was read or promoted in this epoch last. O(n log n) of these."""
        touched = sorted(self._touched, key=lambda claim: claim.used)
        self._touched.clear()
        for claim in touched:
            take_out(claim)
            if self.may_lapse(claim):
                super().touch(claim)
        self.epoch += 1


def require_tenant(tenant: object) -> None:
    """Raise `CacheError` for what names nobody: a missing tenant must never mean everyone."""
    if not isinstance(tenant, str) or not tenant:
        raise CacheError(f"tenant is {tenant!r}", "name the tenant by a text that is not empty")


class Ledger:
    """All accounts, and the division of the budget between them.

    A tenant without a quota of its own has an equal share of what the others leave. With
    `holders_pay` tenants are charged for shared runs that they hold as for private ones. Raises
    `CacheError` when a tenant cannot be given a block.
    """

    def __init__(self, config: CacheConfig, *, holders_pay: bool = False) -> None:
        self.holders_pay = holders_pay
        self._private_blocks = config.private_blocks
        self._default_blocks = config.quota_blocks
        self.overcommit = config.overcommit
        self._reused_floor = config.reused_floor
        self.pool = Pool(config.pool_blocks)
        self._accounts: dict[TenantId, Account] = {}
        self._times = count(1)
        self._share = 0

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __len__(self) -> int:
        return len(self._accounts)

    def __contains__(self, tenant: TenantId) -> bool:
        return tenant in self._accounts

    def get(self, tenant: TenantId) -> Account:
        """The account of `tenant`, opened on first use. O(1) afterwards."""
        return self._accounts.get(tenant) or self.open(tenant, self._default_blocks)

    def of(self, holder: Holder) -> Account:
        """The account of a holder that has claims already."""
        return self._accounts[holder] if isinstance(holder, str) else self.pool

    def open(self, tenant: TenantId, quota_blocks: int | None = None) -> Account:
        """Give `tenant` an account, or its account another quota; equal shares change with it.

        Nothing is evicted here: whoever is over quota then loses blocks at its own next
        request, or when memory is short.
        """
        require_tenant(tenant)
        if quota_blocks is not None and quota_blocks < 1:
            raise CacheError(f"quota of {tenant} is {quota_blocks} blocks", "use 1 or more")
        others = [a.explicit_blocks for a in self if a.holder != tenant]
        left, equal = self._left([*others, quota_blocks])
        if left < equal:
            raise CacheError(
                f"no quota left for tenant {tenant}: {self._private_blocks} blocks for"
                f" {len(others) + 1} tenants",
                "raise cache.capacity_blocks, or lower cache.shared_blocks or other quotas",
            )
        account = self._accounts.setdefault(
            tenant, Account(tenant, quota_blocks, self._times, pays_shared=self.holders_pay)
        )
        account.explicit_blocks = quota_blocks
        self._divide()
        return account

    def close(self, tenant: TenantId) -> None:
        """Remove an account that has nothing left."""
        del self._accounts[tenant]
        self._divide()

    def _divide(self) -> None:
        left, equal = self._left([account.explicit_blocks for account in self])
        self._share = left // equal if equal else 0

    def _left(self, explicit: Sequence[int | None]) -> tuple[int, int]:
        """What `explicit` quotas leave of the budget, and how many tenants divide that."""
        left = self._private_blocks - sum(quota or 0 for quota in explicit)
        return left, sum(quota is None for quota in explicit)

    def quota_blocks(self, account: Account) -> int:
        """What the account is guaranteed."""
        return self._share if account.explicit_blocks is None else account.explicit_blocks

    def ceiling_blocks(self, account: Account) -> int:
        """What the account may hold at most: its quota, times the overcommit for a tenant."""
        quota = self.quota_blocks(account)
        if account is self.pool:
            return quota
        return min(self._private_blocks, int(quota * self.overcommit))

    def room_blocks(self, account: Account) -> int:
        """How many more blocks the account may hold; below 0 how many too many it holds."""
        return self.ceiling_blocks(account) - account.charged_blocks

    def floor_blocks(self, account: Account) -> float:
        """How many re-used blocks of the account fresh ones protect. None of the pool's."""
        return 0 if account is self.pool else self._reused_floor * self.quota_blocks(account)
