"""Who computed what: the evidence for promotion, which forced evictions cannot reset."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Set
from typing import Final

from safekv.types import TenantId

EVIDENCE_LIMIT: Final = 1_000_000
NOBODY: Final[Set[TenantId]] = frozenset()


class ContributionLedger:
    """The contributors of each block in this window, apart from what lies in the cache.

    A contributor computed the block itself; a reader is none. At most `quota` blocks of a
    tenant count per window. A text that several tenants sent takes room once for each, so that
    the room left says nothing about others' texts. Beyond `limit` pieces, whoever has the most
    loses its oldest: evidence goes, thresholds stay, and what lacks evidence stays private.
    """

    def __init__(self, quota: int, limit: int = EVIDENCE_LIMIT) -> None:
        self._quota, self._limit = quota, limit
        self._blocks: defaultdict[TenantId, OrderedDict[bytes, None]] = defaultdict(OrderedDict)
        self._contributors: dict[bytes, set[TenantId]] = {}
        self._counted: dict[TenantId, int] = {}
        self._pieces = 0

    def __len__(self) -> int:
        return self._pieces

    def add(self, tenant: TenantId, block: bytes) -> bool:
        """Count `tenant` as a contributor of `block`; whether it counts now. O(1) until full."""
        mine = self._blocks[tenant]
        if block in mine:
            return True
        counted = self._counted.get(tenant, 0)
        if counted >= self._quota:
            return False
        self._counted[tenant] = counted + 1
        mine[block] = None
        self._contributors.setdefault(block, set()).add(tenant)
        self._pieces += 1
        if self._pieces > self._limit:
            self._drop_oldest()
        return block in mine

    def contributors(self, block: bytes) -> Set[TenantId]:
        """The tenants that count for `block`. O(1)."""
        return self._contributors.get(block, NOBODY)

    def clear(self) -> None:
        """Forget all evidence and all counts: a new window begins."""
        self._blocks.clear()
        self._contributors.clear()
        self._counted.clear()
        self._pieces = 0

    def _drop_oldest(self) -> None:
        tenant = max(self._blocks, key=lambda one: len(self._blocks[one]))
        block, _ = self._blocks[tenant].popitem(last=False)
        known = self._contributors[block]
        known.remove(tenant)
        if not known:
            del self._contributors[block]
        self._pieces -= 1
