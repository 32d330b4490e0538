"""Which leaf goes first: the one that was used least recently."""

from __future__ import annotations

import heapq
from itertools import count

from safekv.cache.node import Node


class LeafQueue:
    """Leaves in order of last use, exact, with lazy updates.

    Every evictable leaf has one entry. A use does not touch the queue: an entry that turns
    out to be older than its node is put back with the node's own time. `push` and `pop` are
    O(log leaves) amortised.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Node]] = []
        self._order = count()

    def push(self, node: Node) -> None:
        """Make `node` a candidate. Does nothing if it is one already."""
        if not node.queued:
            node.queued = True
            heapq.heappush(self._heap, (node.last_used, next(self._order), node))

    def pop(self) -> Node | None:
        """The least recently used unlocked leaf, or `None`. The caller evicts or pushes it.

        Nodes that are locked, gone or no longer leaves leave the queue; unlocking and losing
        the last child push them again.
        """
        while self._heap:
            entered, _, node = heapq.heappop(self._heap)
            node.queued = False
            if node.parent is None or node.children or node.locks:
                continue
            if node.last_used > entered:
                self.push(node)
                continue
            return node
        return None
