"""Sizes of the prefix tree, for the operator."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.cache.structure import Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStats:
    """Sizes at one moment.

    `blocks` exist; `charged_blocks` count a private run once per holder, and a shared one
    once. `shared_blocks` of `shared_budget_blocks` are in the pool. `quota_blocks` is what
    all tenants are guaranteed together, `over_quota_blocks` what some hold beyond theirs.
    `leases` belong to running requests.
    """

    nodes: int
    blocks: int
    charged_blocks: int
    shared_blocks: int
    shared_budget_blocks: int
    tenants: int
    quota_blocks: int
    over_quota_blocks: int
    overcommit: float
    leases: int

    @classmethod
    def of(cls, structure: Structure) -> TreeStats:
        """Sizes now. O(tenants)."""
        ledger = structure.ledger
        quotas = [(a.charged_blocks, ledger.quota_blocks(a)) for a in ledger]
        return cls(
            nodes=structure.nodes,
            blocks=structure.blocks,
            charged_blocks=sum(charged for charged, _ in quotas) + ledger.pool.charged_blocks,
            shared_blocks=ledger.pool.charged_blocks,
            shared_budget_blocks=ledger.quota_blocks(ledger.pool),
            tenants=len(quotas),
            quota_blocks=sum(quota for _, quota in quotas),
            over_quota_blocks=sum(max(0, charged - quota) for charged, quota in quotas),
            overcommit=ledger.overcommit,
            leases=sum(len(account.leases) for account in ledger),
        )
