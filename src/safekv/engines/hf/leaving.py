"""Masked requests whose clients have gone, and which run on to their first token.

Ended earlier, how much of them was computed would show in what their tenant has later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final

from safekv.errors import OverloadedError
from safekv.types import TenantId

LEAVING_LIMIT: Final = 16


class Leaving:
    """At most `LEAVING_LIMIT` of one tenant, so that hanging up is no way around its limits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_tenant: Counter[TenantId] = Counter()

    @property
    def waiting(self) -> int:
        """How many are leaving now."""
        return len(self._tasks)

    def require_room(self, tenant: TenantId) -> None:
        """Raise `OverloadedError` while too many requests of `tenant` are leaving."""
        if self._by_tenant[tenant] >= LEAVING_LIMIT:
            raise OverloadedError("too many requests are waiting", "try again later")

    def add(
        self, tenant: TenantId, leave: Coroutine[None, None, None], end: Callable[[], None]
    ) -> None:
        """Let `leave` take its time, then call `end`: also when it failed, or never began."""
        task = asyncio.get_running_loop().create_task(leave)
        self._tasks.add(task)
        self._by_tenant[tenant] += 1

        def left(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]
            end()

        task.add_done_callback(left)

    async def stop(self) -> None:
        """End all that are leaving: the engine has stopped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
