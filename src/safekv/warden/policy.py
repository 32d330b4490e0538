"""Which cleared blocks may be shared at an epoch tick."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from safekv.cache import PrefixTree
from safekv.types import Profile, TenantId
from safekv.warden.config import WardenConfig
from safekv.warden.ledger import ContributionLedger
from safekv.warden.promotion import Evidence, PromotionQueue
from safekv.warden.quarantine import Quarantine
from safekv.warden.threshold import SecretThreshold

Names = Callable[[TenantId, bytes, int], tuple[bytes, ...]]


class PromotionPolicy:
    """The conditions of `selective` beside a clean verdict, and the evidence for them.

    `paper`: none (SafeKV, arXiv 2508.08438). `anonymous`: at least T distinct contributors of
    each block that is not shared yet, with T secret (`SecretThreshold`); so whether one tenant
    sent a text shifts what others see by at most 1/W in total variation per block and window,
    and not at all while fewer than L tenants sent it. Either way nothing quarantined.

    `named` hashes and belongs outside the warden's lock; so does `promotable`. Everything else
    is called under it.
    """

    def __init__(
        self, config: WardenConfig, names: Names, quarantine: Quarantine, key: bytes
    ) -> None:
        self._anonymous = config.profile is Profile.ANONYMOUS
        self._window_epochs = config.window_epochs
        self._names = names
        self._quarantine = quarantine
        self._queue = PromotionQueue()
        self._ledger = ContributionLedger(config.contributions_per_window)
        self._threshold = SecretThreshold(config.threshold_low, config.threshold_width, key)
        self._epochs = 0

    @property
    def window(self) -> int:
        """The number of the window, counted in ticks: no clock can set it back."""
        return self._epochs // self._window_epochs

    def named(self, evidence: Evidence) -> Evidence:
        """`evidence` with its blocks' names, where they are needed to count. O(tokens)."""
        return self._name(evidence) if self._anonymous else evidence

    def _name(self, evidence: Evidence) -> Evidence:
        if evidence.names:
            return evidence
        return replace(
            evidence, names=self._names(evidence.tenant, evidence.tokens, evidence.n_blocks)
        )

    def add(self, evidence: Evidence) -> None:
        """Keep named evidence for the next tick, and its contributions for the window."""
        self._queue.add(evidence)
        if self._anonymous:
            for name in evidence.names[: evidence.computed_from]:
                self._ledger.renew(evidence.tenant, name)
            for name in evidence.names[evidence.computed_from :]:
                self._ledger.add(evidence.tenant, name)

    def take(self) -> list[Evidence]:
        """The evidence of the epoch that ends now."""
        return self._queue.take()

    def promotable(self, evidence: Evidence, shared_blocks: int) -> int:
        """How many leading blocks may be shared, given that `shared_blocks` are. O(blocks)."""
        n = evidence.n_blocks
        if len(self._quarantine):
            # Under `paper` names are for this alone, and hashing a long prompt takes milliseconds.
            n = self._quarantine.reach(self._name(evidence).names)
        if self._anonymous:
            n = min(n, self._crowded(evidence.names, shared_blocks))
        return n

    def _crowded(self, names: tuple[bytes, ...], shared_blocks: int) -> int:
        for n, name in enumerate(names[shared_blocks:], start=shared_blocks):
            known = len(self._ledger.contributors(name))
            if known < self._threshold.low or known < self._threshold.of(name, self.window):
                return n
        return len(names)

    def holders(self, evidence: Evidence, n_blocks: int) -> Iterable[TenantId]:
        """Who may still hold the first `n_blocks`: the sender, then all other contributors."""
        yield evidence.tenant
        if self._anonymous:
            yield from sorted(self._ledger.contributors(evidence.names[n_blocks - 1]))

    def end_epoch(self) -> None:
        """Count a tick; at the end of a window forget all evidence and draw new thresholds."""
        before = self.window
        self._epochs += 1
        if self.window != before:
            self._ledger.clear()


def promote(
    tree: PrefixTree, policy: PromotionPolicy, decided: Iterable[tuple[Evidence, int, int]]
) -> int:
    """Share what was decided, (evidence, blocks, blocks thought shared); the promoted blocks.

    Where less is shared now than the decision assumed, it is void: what is missing above
    lacks evidence of its own.
    """
    promoted = 0
    for evidence, n_blocks, thought in decided:
        if n_blocks <= thought or tree.shared_blocks_of(evidence.tokens) < thought:
            continue
        for tenant in policy.holders(evidence, n_blocks):
            promoted += tree.promote(tenant, evidence.tokens, n_blocks)
            if tree.shared_blocks_of(evidence.tokens) >= n_blocks:
                break
    return promoted
