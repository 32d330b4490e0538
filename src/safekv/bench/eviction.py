"""What the order of eviction is worth: a trace replayed through the real tree, order by order.

No model and no clock: every request is matched, its missing blocks are stored, and the tree
evicts within one tenant's quota. One token stands for one block of the trace.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Final

from safekv.bench.traces import read_trace
from safekv.cache import CacheConfig, PrefixTree
from safekv.errors import CacheError
from safekv.types import BlockId, TenantId, pack_tokens

ORDERS: Final = {"lru": 0.0, "reused-floor": 0.25}
"""The orders compared, by their `reused_floor`."""

TENANT: Final = TenantId("all")
BRANCHES: Final = 3
Trace = Sequence[Sequence[int]]
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionPlan:
    """Budgets in shares of the trace's distinct blocks, floods in one-shot requests per request."""

    budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    floods: tuple[float, ...] = (0.0, 0.2, 0.5)
    seed: int = 5


def read(path: Path) -> list[list[int]]:
    """The block numbers of each request of a trace (`safekv.bench.traces`), full blocks only."""
    return [list(request.numbers()) for request in read_trace(path).requests]


def run(trace: Trace, plan: EvictionPlan, report: Report) -> dict[str, object]:
    """Hit rates per budget, flood and order, as JSON types. Seconds to minutes."""
    distinct = len({block for request in trace for block in request})
    popular = popular_blocks(trace)
    settings = [(f, b) for f in plan.floods for b in plan.budgets]
    rows = []
    for n, (flood, budget) in enumerate(settings):
        report(n, len(settings))
        blocks = max(2, round(budget * distinct))
        requests = list(flooded(trace, flood, plan.seed))
        for order, floor in ORDERS.items():
            hit_rate, kept = replay(requests, blocks, floor, popular)
            rows.append(
                {
                    "budget": budget,
                    "budget_blocks": blocks,
                    "flood": flood,
                    "order": order,
                    "hit_rate": hit_rate,
                    "popular_prefix_kept": kept,
                }
            )
    return {"requests": len(trace), "distinct_blocks": distinct, "rows": rows}


def popular_blocks(trace: Trace) -> set[int]:
    """Blocks above a point where requests part at least three ways: prompts in common use."""
    following: dict[int, set[int]] = defaultdict(set)
    for request in trace:
        for block, after in pairwise(request):
            following[block].add(after)
    popular = set()
    for request in trace:
        last = max((n for n, b in enumerate(request) if len(following[b]) >= BRANCHES), default=-1)
        popular |= set(request[: last + 1])
    return popular


def flooded(trace: Trace, flood: float, seed: int) -> Iterator[tuple[Sequence[int], bool]]:
    """The requests of the trace, and between them one-shot requests as long as these.

    With each goes whether it is one of the trace's own.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload, not a key
    unseen = count(1 << 30)
    for request in trace:
        yield request, True
        if rng.random() < flood:
            yield [next(unseen) for _ in request], False


def replay(
    requests: Iterable[tuple[Sequence[int], bool]], blocks: int, floor: float, popular: set[int]
) -> tuple[float, float]:
    """Hit blocks per block of the trace, and the same for its popular blocks."""
    tree = PrefixTree(
        CacheConfig(block_tokens=1, capacity_blocks=blocks, shared_blocks=0, reused_floor=floor)
    )
    free = list(range(blocks))
    asked = hit = asked_popular = hit_popular = 0
    for request, real in requests:
        tokens = pack_tokens(request)
        lease = tree.match(TENANT, tokens)
        if real:
            asked, hit = asked + len(request), hit + lease.n_blocks
            wanted = sum(block in popular for block in request)
            asked_popular += wanted
            hit_popular += min(lease.n_blocks, wanted)
        fits = min(len(request), blocks)
        lacking = fits - lease.n_blocks - len(free)
        if lacking > 0:
            free += tree.evict(lacking, TENANT)
        new = [BlockId(free.pop()) for _ in range(min(fits - lease.n_blocks, len(free)))]
        try:
            free += tree.insert(lease, tokens[: (lease.n_blocks + len(new)) * 4], new)
        except CacheError:
            free += new
        tree.release(lease)
    return hit / max(1, asked), hit_popular / max(1, asked_popular)
