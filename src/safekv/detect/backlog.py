"""Prompts that wait to be judged: a bounded queue for each tenant, served in turn."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from safekv.types import TenantId

Job = TypeVar("Job")


class Backlog(Generic[Job]):
    """At most `limit` jobs, of one tenant at most `tenant_limit`; tenants take turns.

    A tenant with many jobs waits behind its own: every other tenant's next job is at most
    one turn per waiting tenant away. When all is full, the newest job of the tenant with
    the most gives way to one of a tenant with fewer. Thread-safe; no call but `take` waits.
    Mutable state: the queues, in the order of their turns.
    """

    def __init__(self, limit: int, tenant_limit: int) -> None:
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._queues: OrderedDict[TenantId, deque[Job]] = OrderedDict()
        self._size = 0
        self._ready = threading.Condition()

    def put(self, tenant: TenantId, job: Job) -> bool:
        """Add `job`; False if it, or another job, was lost for want of room. O(tenants)."""
        with self._ready:
            own = len(self._queues.get(tenant, ()))
            kept = self._size < self._limit
            if own >= self._tenant_limit or not (kept or self._made_room(own)):
                return False
            self._queues.setdefault(tenant, deque()).append(job)
            self._size += 1
            self._ready.notify()
            return kept

    def take(self, limit: int, timeout_s: float) -> list[Job]:
        """Up to `limit` jobs, oldest first, of the one tenant whose turn it is; `[]` in time."""
        with self._ready:
            if not self._queues and not self._ready.wait_for(lambda: self._queues, timeout_s):
                return []
            tenant, queue = self._queues.popitem(last=False)
            jobs = [queue.popleft() for _ in range(min(limit, len(queue)))]
            if queue:
                self._queues[tenant] = queue  # behind all others
            self._size -= len(jobs)
            return jobs

    def __len__(self) -> int:
        return self._size

    def _made_room(self, own: int) -> bool:
        """Drop the newest job of the longest queue, if it is longer than `own + 1`."""
        longest = max(self._queues.values(), key=len)
        if len(longest) <= own + 1:
            return False
        longest.pop()
        self._size -= 1
        return True
