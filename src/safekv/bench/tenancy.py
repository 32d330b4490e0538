"""Whose request is it? Conversations found in a trace, and tenants dealt out to them.

Most public traces name no tenant, so what sharing is worth is bounded from both sides:
`STRICT` takes every branch for a conversation of its own, `MERGE` everything that shares a
block which is not in general use.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from safekv.bench.traces import Request, Trace

POPULAR_SHARE: Final = 0.005
POPULAR_MIN: Final = 50


class Bound(Enum):
    """How conversations are told apart where the trace does not name them."""

    STRICT = "strict"
    MERGE = "merge"


def conversations(trace: Trace, bound: Bound) -> list[str]:
    """The conversation of each request, as the trace says or as `bound` finds it. O(blocks)."""
    if all(request.conversation is not None for request in trace.requests):
        return [str(request.conversation) for request in trace.requests]
    find = _strict if bound is Bound.STRICT else _merged
    found = find(trace.requests, _popular(trace))
    return [f"c{root}" for root in found]


def tenants(trace: Trace, bound: Bound, n_tenants: int, seed: int) -> list[str]:
    """The tenant of each request: as the trace says, or a hash of its conversation."""
    roots = conversations(trace, bound)
    return [
        request.tenant or f"t{share(f'{seed}:{root}', n_tenants)}"
        for request, root in zip(trace.requests, roots, strict=True)
    ]


def share(name: str, n: int) -> int:
    """A number below `n` that depends on `name` alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % n


def public_blocks(trace: Trace) -> list[int]:
    """How many leading blocks of each request are in general use, and so nobody's secret.

    As the trace says, or those referenced by 0.5 % of all requests (and at least 50). O(blocks).
    """
    if any(request.public_blocks for request in trace.requests):
        return [request.public_blocks for request in trace.requests]
    popular = _popular(trace)
    return [_leading(request, popular.__contains__) for request in trace.requests]


def _leading(request: Request, wanted: Callable[[int], bool]) -> int:
    n = 0
    for number in request.numbers():
        if not wanted(number):
            break
        n += 1
    return n


def _popular(trace: Trace) -> set[int]:
    uses = Counter(n for request in trace.requests for n in request.numbers())
    least = max(POPULAR_MIN, POPULAR_SHARE * len(trace.requests))
    return {number for number, times in uses.items() if times >= least}


def _strict(requests: Sequence[Request], popular: set[int]) -> list[int]:
    """A request continues the longest earlier one, without a continuation yet, whose blocks
    begin its own and whose prompt and answer fit into its prompt. What is popular starts many
    conversations, so a request of popular blocks alone is continued by none."""
    waiting: dict[int, list[int]] = {}  # by last block: requests that nothing continues yet
    roots: list[int] = []
    for index, request in enumerate(requests):
        root, numbers = index, list(request.numbers())
        for last in reversed(numbers):
            parent = _take_parent(requests, waiting.get(last, []), request)
            if parent is not None:
                root = roots[parent]
                break
        roots.append(root)
        if numbers[-1] not in popular:
            waiting.setdefault(numbers[-1], []).append(index)
    return roots


def _take_parent(requests: Sequence[Request], candidates: list[int], child: Request) -> int | None:
    for place in reversed(range(len(candidates))):
        parent = requests[candidates[place]]
        fits = child.input_tokens >= parent.input_tokens + parent.output_tokens
        if fits and child.time_s > parent.time_s:
            return candidates.pop(place)
    return None


def _merged(requests: Sequence[Request], popular: set[int]) -> list[int]:
    """Requests that share any block which is not popular belong together."""
    above = list(range(len(requests)))

    def root(index: int) -> int:
        while above[index] != index:
            above[index] = above[above[index]]
            index = above[index]
        return index

    first: dict[int, int] = {}
    for index, request in enumerate(requests):
        for number in request.numbers():
            if number not in popular:
                a, b = root(first.setdefault(number, index)), root(index)
                above[max(a, b)] = min(a, b)
    return [root(index) for index in range(len(requests))]
