"""How safekv's tree grows: times and memory from a thousand nodes to a million."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any, Final

from safekv.bench.peers.process import Worker
from safekv.bench.tree_workloads import ALIGN, CURVE, TreePlan

CHUNK: Final = 5_000
TOKEN_BYTES: Final = 4
BLOCK_ID_BYTES: Final = 4
RSS_FROM_NODES: Final = 50_000  # of a smaller tree, resident memory says nothing


def curve_and_memory(worker: Worker, tokens: str, plan: TreePlan) -> dict[str, Any]:
    """`curve`: rows per size, collector on; `memory`: overhead per node, measured two ways.

    Raises `ContenderLostError` when the worker is lost.
    """
    grower = Grower(worker, tokens, plan)
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    grower.prepare(max(plan.curve, default=ALIGN))
    before = worker.ask({"do": "facts"})["anonymous_bytes"]
    for size in plan.curve:
        inserts = grower.grow(size)
        answer = worker.ask({"do": "facts"})
        if before is not None and answer["facts"]["nodes"] >= RSS_FROM_NODES:
            memory.append(_overhead(answer["facts"], answer["anonymous_bytes"] - before, "rss"))
        rows += grower.measure(size, answer["facts"]["nodes"], inserts)
    if plan.traced_sequences:
        memory.append(grower.traced())
    return {"curve": rows, "memory": memory}


def _overhead(facts: dict[str, int], used: int, how: str) -> dict[str, Any]:
    """Bytes per node beyond 4 for each token and 4 for each block id."""
    due = facts["tokens"] * TOKEN_BYTES + facts["blocks"] * BLOCK_ID_BYTES
    return {
        "how": how,
        "nodes": facts["nodes"],
        "blocks": facts["blocks"],
        "used_bytes": used,
        "overhead_bytes_per_node": round((used - due) / facts["nodes"], 1),
    }


class Grower:
    """Inserts sequence after sequence into one tree of safekv's worker."""

    def __init__(self, worker: Worker, tokens: str, plan: TreePlan) -> None:
        self._worker, self._tokens, self._plan = worker, tokens, plan
        self._rng = random.Random(plan.seed)  # noqa: S311 - a workload, not a secret
        self._grown = 0

    def prepare(self, sequences: int, build: int = 0) -> None:
        """An empty tree with room for `sequences`, the first `build` of them inserted."""
        case = {"page": CURVE.page, "capacity_tokens": CURVE.file_tokens(sequences), "salt": None}
        items = [CURVE.sequence(i) for i in range(build)]
        request = {"do": "prepare", "case": case, "tokens": self._tokens, "build": items}
        self._worker.ask({**request, "gc": True})

    def traced(self) -> dict[str, Any]:
        """Overhead as the bytes that Python was asked for, exact but for a small tree only."""
        n = self._plan.traced_sequences
        self._worker.ask({"do": "trace", "on": True})
        self.prepare(n)
        before = self._worker.ask({"do": "facts"})["traced_bytes"]
        self.prepare(n, build=n)
        answer = self._worker.ask({"do": "facts"})
        self._worker.ask({"do": "trace", "on": False})
        return _overhead(answer["facts"], answer["traced_bytes"] - before, "tracemalloc")

    def grow(self, sequences: int) -> list[int]:
        """Insert up to `sequences`; nanoseconds of the last inserts."""
        kept: list[int] = []
        while self._grown < sequences:
            upto = min(self._grown + CHUNK, sequences)
            items = [CURVE.sequence(i) for i in range(self._grown, upto)]
            kept = (kept + self._run("insert", items))[-self._plan.curve_calls :]
            self._grown = upto
        return kept

    def measure(self, size: int, nodes: int, inserts: list[int]) -> list[dict[str, Any]]:
        """Rows of the present size: the last inserts, matches, evictions of one leaf."""
        calls = self._plan.curve_calls
        # The older half loses leaves to the evictions of this size and of those before.
        picks = [self._rng.randrange(size // 2, size) for _ in range(calls)]
        matches = self._run("match", [CURVE.sequence(i) for i in picks])
        evictions = self._run("evict", [CURVE.page] * min(calls // 2, size // 4))
        taken = {"insert": inserts, "match": matches, "evict": evictions}
        return [{"op": op, "nodes": nodes, **spread(ns)} for op, ns in taken.items()]

    def _run(self, op: str, items: Sequence[Any]) -> list[int]:
        ns: list[int] = self._worker.ask({"do": "run", "op": op, "items": list(items)})["ns"]
        return ns


def spread(ns: Sequence[int]) -> dict[str, float | int]:
    """Median, 99th percentile and maximum in microseconds, and p99 over the median."""
    ordered = sorted(ns)
    median = statistics.median(ordered)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {
        "median_us": round(median / 1000, 3),
        "p99_us": round(p99 / 1000, 3),
        "max_us": round(ordered[-1] / 1000, 3),
        "p99_over_median": round(p99 / median, 2),
        "samples": len(ordered),
    }
