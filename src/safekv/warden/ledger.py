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

    A contributor computed the block itself; a reader is none. Who did so in an earlier window and
    sends the text again contributes again, though it finds the block now (`renew`): that it was
    no reader is remembered (`_made`) beyond the window. At most `quota` blocks of a tenant count
    per window. A text that several tenants sent takes room once for each, so that the room left
    says nothing about others' texts. Beyond `limit` pieces of either kind, whoever has the
    most loses its oldest: evidence goes, thresholds stay, and what lacks evidence stays private.
    """

    def __init__(self, quota: int, limit: int = EVIDENCE_LIMIT) -> None:
        self._quota, self._limit = quota, limit
        self._blocks: defaultdict[TenantId, OrderedDict[bytes, None]] = defaultdict(OrderedDict)
        self._contributors: dict[bytes, set[TenantId]] = {}
        self._counted: dict[TenantId, int] = {}
        self._pieces = 0
        self._made: defaultdict[TenantId, OrderedDict[bytes, None]] = defaultdict(OrderedDict)
        self._made_pieces = 0

    def __len__(self) -> int:
        return self._pieces

    def add(self, tenant: TenantId, block: bytes) -> bool:
        """Count `tenant`, which computed `block`, as a contributor; whether it counts now.

        O(1) until full.
        """
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
        self._remember(tenant, block)
        if self._pieces > self._limit:
            self._drop_oldest()
        return block in mine

    def renew(self, tenant: TenantId, block: bytes) -> bool:
        """Count `tenant`, which sent `block` and found it, if it has computed it before; whether it
        counts now. O(1)."""
        return block in self._made.get(tenant, ()) and self.add(tenant, block)

    def contributors(self, block: bytes) -> Set[TenantId]:
        """The tenants that count for `block`. O(1)."""
        return self._contributors.get(block, NOBODY)

    def clear(self) -> None:
        """Forget all evidence and all counts: a new window begins. Who is no reader stays known."""
        self._blocks.clear()
        self._contributors.clear()
        self._counted.clear()
        self._pieces = 0

    def _remember(self, tenant: TenantId, block: bytes) -> None:
        made = self._made[tenant]
        self._made_pieces += block not in made
        made[block] = None
        made.move_to_end(block)
        if self._made_pieces > self._limit:
            most = max(self._made, key=lambda one: len(self._made[one]))
            self._made[most].popitem(last=False)
            self._made_pieces -= 1

    def _drop_oldest(self) -> None:
        tenant = max(self._blocks, key=lambda one: len(self._blocks[one]))
        block, _ = self._blocks[tenant].popitem(last=False)
        known = self._contributors[block]
        known.remove(tenant)
        if not known:
            del self._contributors[block]
        self._pieces -= 1
