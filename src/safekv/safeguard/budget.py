"""How much of what others sent a tenant may read in one window, whoever else reads it."""

from __future__ import annotations

from collections.abc import Hashable

from safekv.types import TenantId


class ReadBudgets:
    """Counts each tenant's reads of shared runs by its own requests alone.

    So nobody's traffic moves a counter that another tenant can feel. Asking again for what
    was answered in this window is free: it tells nothing new.
    """

    def __init__(self, per_node: int, per_tenant: int) -> None:
        self._per_node, self._per_tenant = per_node, per_tenant
        self._answered: dict[TenantId, set[int]] = {}
        self._below: dict[tuple[TenantId, Hashable], int] = {}

    def spend(self, tenant: TenantId, node: bytes, answer: bytes) -> bool:
        """Whether `tenant` may have `answer`, found below `node`; counts it if so. O(answer)."""
        answered = self._answered.setdefault(tenant, set())
        # Python's hash of bytes is keyed per process. A collision gives one answer for free.
        mark = hash((node, answer))
        if mark in answered:
            return True
        spent = self._below.get((tenant, node), 0)
        if spent >= self._per_node or len(answered) >= self._per_tenant:
            return False
        answered.add(mark)
        self._below[tenant, node] = spent + 1
        return True

    def clear(self) -> None:
        """Start a new window."""
        self._answered, self._below = {}, {}
