"""Which claim lapses first: the one that its own holder used least recently."""

from __future__ import annotations

import heapq
from itertools import count

from safekv.cache.node import Holder, Node
from safekv.types import Scope


class ClaimQueue:
    """Claims in order of last use, exact, with lazy updates.

    Every claim that may lapse has one entry. A use does not touch the queue: an entry that
    turns out to be older than its claim is put back with the claim's own time. `push` and
    `pop` are O(log claims) amortised.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Node, Holder]] = []
        self._order = count()

    def push(self, node: Node, holder: Holder) -> None:
        """Make a claim a candidate. Does nothing if it is one already."""
        hold = node.holds[holder]
        if not hold.queued:
            hold.queued = True
            heapq.heappush(self._heap, (hold.last_used, next(self._order), node, holder))

    def pop(self) -> tuple[Node, Holder] | None:
        """The least recently used claim that may lapse, or `None`.

        The caller lets it lapse or pushes it again. Claims that may not lapse now leave the
        queue; whoever changes that pushes them again.
        """
        while self._heap:
            entered, _, node, holder = heapq.heappop(self._heap)
            hold = node.holds.get(holder)
            if hold is None:
                continue
            hold.queued = False
            if not may_lapse(node, holder):
                continue
            if hold.last_used > entered:
                self.push(node, holder)
                continue
            return node, holder
        return None


def may_lapse(node: Node, holder: Holder) -> bool:
    """Whether nothing depends on the claim, and it is charged at all.

    A tenant's claim on a shared run costs nothing and ends with the run itself, which stays
    while anything hangs below it.
    """
    if node.parent is None:
        return False
    hold = node.holds[holder]
    if holder is Scope.SHARED:
        return not node.children and not hold.locks
    return not node.shared and not hold.locks and not hold.children
