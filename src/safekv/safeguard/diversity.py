"""Reuse diversity: how many tenants stand behind the reads beyond a block."""

from __future__ import annotations

from dataclasses import dataclass, field

from safekv.types import TenantId


@dataclass(slots=True)
class Diversity:
    """The reads that went beyond one block in one window, by tenant."""

    by_tenant: dict[TenantId, int] = field(default_factory=dict)
    reads: int = 0

    def add(self, tenant: TenantId) -> None:
        self.by_tenant[tenant] = self.by_tenant.get(tenant, 0) + 1
        self.reads += 1

    @property
    def ratio(self) -> float:
        """The reuse-diversity ratio: distinct tenants / reads. 1 for a block nobody read."""
        return len(self.by_tenant) / self.reads if self.reads else 1.0

    def low(self, armed_reads: int, low_diversity: float, n_tenants: int) -> bool:
        """Whether few tenants read much. In the first window of a block too (defect D9).

        Few are one, or fewer than `low_diversity` of the `n_tenants` served: where there are
        ten tenants, reads by all ten are no suspicion, however many they are.
        """
        few = len(self.by_tenant)
        if self.reads < armed_reads or self.ratio >= low_diversity:
            return False
        return few == 1 or few < low_diversity * n_tenants

    def surges(self, before: Diversity | None, armed_reads: int, factor: float) -> bool:
        """Whether many more reads by more tenants each came than in the window before.

        A block that was not read before counts as read once (defect D9).
        """
        reads = max(1, before.reads) if before else 1
        ratio = before.ratio if before and before.reads else 0.0
        return self.reads >= armed_reads and self.reads >= factor * reads and self.ratio > ratio
