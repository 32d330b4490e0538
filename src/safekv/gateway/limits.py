"""How many requests may wait for their first token, and how many may run."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

from safekv.errors import OverloadedError
from safekv.types import TenantId


class WaitingRoom:
    """Admits at most `total` waiting requests, and `per_tenant` of any one tenant.

    Synchronous and without locks: it belongs to one event loop. The mutable state is
    `_waiting`, which holds no tenant with a count of zero. The total is the one thing here
    that tenants share, so a full house can be felt by all; a tenant alone cannot fill it
    unless `per_tenant` reaches `total`.
    """

    def __init__(self, total: int, per_tenant: int) -> None:
        self._total = total
        self._per_tenant = per_tenant
        self._waiting: Counter[TenantId] = Counter()

    def __repr__(self) -> str:
        return f"<WaitingRoom [{self._waiting.total()} of {self._total} waiting]>"

    @property
    def waiting(self) -> int:
        return self._waiting.total()

    def enter(self, tenant: TenantId) -> Ticket:
        """A ticket for one request. Raises `OverloadedError`, the same for both limits."""
        if self._waiting[tenant] >= self._per_tenant or self.waiting >= self._total:
            self._drop_empty(tenant)
            raise OverloadedError("too many requests are waiting", "try again later")
        self._waiting[tenant] += 1
        return Ticket(self, tenant)

    def leave(self, tenant: TenantId) -> None:
        """Undo one `enter` of `tenant`."""
        assert self._waiting[tenant] > 0, "nobody of this tenant waits"
        self._waiting[tenant] -= 1
        self._drop_empty(tenant)

    def _drop_empty(self, tenant: TenantId) -> None:
        if not self._waiting[tenant]:
            del self._waiting[tenant]


class Ticket:
    """One waiting request's place. Left once, at the first token or at the end of the block."""

    def __init__(self, room: WaitingRoom, tenant: TenantId) -> None:
        self._room: WaitingRoom | None = room
        self._tenant = tenant

    def leave(self) -> None:
        """Free the place. Leaving twice is a no-op."""
        if self._room is not None:
            self._room.leave(self._tenant)
            self._room = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
