"""In which order claims were used: first the one used least recently."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

from safekv.cache.node import Claim


class Order:
    """Claims in order of their last use: those whose last block was re-used, or the others.

    A use puts its claim last, in O(1). The few that come back out of order, such as a run
    whose last continuation lapsed, wait in a heap beside the ring. A claim is in one order at
    a time: in a ring by its neighbours, in a heap if it is its own neighbour `before`.
    """

    __slots__ = ("_count", "_ends", "_late", "_reused")

    def __init__(self, *, reused: bool) -> None:
        self._reused = reused
        self._ends = Claim(0)
        self._ends.before = self._ends.behind = self._ends
        self._late: list[tuple[int, int, Claim]] = []
        self._count = count()

    def touch(self, claim: Claim) -> None:
        """Put a claim last that was used just now, out of any order it is in. O(1)."""
        ends = self._ends
        if claim.behind is ends:
            return
        take_out(claim)
        last = ends.before
        assert last is not None, "the order is a ring"
        claim.before, claim.behind = last, ends
        last.behind = ends.before = claim

    def insert(self, claim: Claim) -> None:
        """Put a claim in its place that is in no order and was used some time ago. O(log n)."""
        claim.before = claim
        heapq.heappush(self._late, (claim.used, next(self._count), claim))

    def first(self, valid: Callable[[Claim], bool]) -> Claim | None:
        """The claim used least recently, if it is `valid`; those that are not leave the order."""
        ends = self._ends
        while (claim := ends.behind) is not ends:
            assert claim is not None, "the order is a ring"
            if valid(claim):
                break
            take_out(claim)
        while self._late:
            used, _, late = self._late[0]
            if self._lives(used, late):
                if valid(late):
                    return late if claim is ends or used < claim.used else claim
                take_out(late)
            heapq.heappop(self._late)
        return None if claim is ends else claim

    def _lives(self, used: int, claim: Claim) -> bool:
        """Whether an entry of the heap still stands for its claim, and not an older one of it."""
        return claim.before is claim and claim.used == used and claim.all_reused == self._reused

    def __iter__(self) -> Iterator[Claim]:
        yield from (claim for used, _, claim in self._late if self._lives(used, claim))
        claim = self._ends.behind
        while claim is not None and claim is not self._ends:
            yield claim
            claim = claim.behind


def take_out(claim: Claim) -> None:
    """Take a claim out of the order it is in, if any. O(1): its entry in a heap dies."""
    before, behind = claim.before, claim.behind
    if before is not None and behind is not None:
        before.behind, behind.before = behind, before
    claim.before = claim.behind = None


def put_in_place_of(claim: Claim, heir: Claim, order: Order) -> None:
    """Let `heir` wait in `order` where `claim` waits, if it does."""
    before, behind = claim.before, claim.behind
    if before is not None and behind is not None:
        heir.before, heir.behind = before, behind
        before.behind = behind.before = heir
    elif before is claim:
        order.insert(heir)
    claim.before = claim.behind = None
