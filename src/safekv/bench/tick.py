"""What the end of an epoch costs, by how much the tree holds and by what waits to be shared.

The real warden without an engine. A block is one token: a tick never looks at tokens one by one,
so their number does not matter, and a million nodes fit into memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any, Final

from safekv.bench.stats import quantile
from safekv.cache import CacheConfig
from safekv.errors import ConfigError
from safekv.types import BlockId, Profile, TenantId, Verdict, pack_tokens
from safekv.warden import Warden, WardenConfig

COMMON: Final = list(range(1, 5))
OWN_BLOCKS: Final = 2
TAIL: Final = [0]
"""What follows the last full block."""
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickPlan:
    """Trees of `nodes` nodes of `tenants` tenants; `ticks` ends of an epoch are timed for each
    number of prompts in `cleared` that wait to be shared. A third of the tree is shared."""

    nodes: Sequence[int] = (10_000, 100_000, 1_000_000)
    tenants: int = 100
    cleared: Sequence[int] = (0, 64, 512)
    ticks: int = 30
    profile: Profile = Profile.PAPER
    seed: int = 3

    def __post_init__(self) -> None:
        if not self.nodes or min(self.nodes) < 2 * self.tenants:
            raise ConfigError(
                f"nodes are {list(self.nodes)}", f"use {2 * self.tenants} or more for each"
            )
        if self.ticks < 1 or self.tenants < 1 or min(self.cleared, default=-1) < 0:
            raise ConfigError("nothing is to be measured", "use 1 or more ticks and tenants")


def run(plan: TickPlan, report: Report) -> dict[str, Any]:
    """Rows of times, as JSON types. About a minute for a million nodes.

    Interrupted by the keyboard it returns what was finished, marked `partial`.
    """
    rows: list[dict[str, Any]] = []
    cut_short = False
    total = sum(plan.nodes)
    try:
        for n in sorted(plan.nodes):
            done = sum(size for size in plan.nodes if size < n)
            forest = Forest(plan, n, partial(_grown, report, done, total))
            rows += [forest.measure(cleared) for cleared in plan.cleared]
            del forest
    except KeyboardInterrupt:
        cut_short = True
    facts = {**asdict(plan), "profile": plan.profile.value}
    return {"plan": facts, "partial": cut_short, "rows": rows}


def _grown(report: Report, done: int, total: int, nodes: int) -> None:
    report(done + nodes, total)


class Forest:
    """A warden whose tree has the wanted number of nodes."""

    def __init__(self, plan: TickPlan, nodes: int, report: Callable[[int], None]) -> None:
        self._plan, self._rng = plan, random.Random(plan.seed)  # noqa: S311 - a workload
        self._names = [TenantId(f"t{n}") for n in range(plan.tenants)]
        self._blocks, self._numbers = count(), count(100)
        spare = (plan.ticks + 1) * sum(plan.cleared) * OWN_BLOCKS
        each = 2 * (OWN_BLOCKS * nodes + spare) // plan.tenants + 64
        pool = OWN_BLOCKS * nodes + spare + 64
        self.warden = Warden(
            WardenConfig(profile=plan.profile),
            CacheConfig(
                block_tokens=1,
                capacity_blocks=each * plan.tenants + pool,
                shared_blocks=pool,
                quota_blocks=each,
            ),
        )
        self.warden.open(self._names)
        for n in range(nodes):
            self._send(clear=n % 3 == 0)
            if n % 2000 == 1999:
                self.warden.tick()
                report(n)
        self.warden.tick()

    def _send(self, *, clear: bool) -> None:
        """One prompt of a tenant: what all have in common, and blocks of its own."""
        tenant, warden = self._rng.choice(self._names), self.warden
        tokens = [*COMMON, *(next(self._numbers) for _ in range(OWN_BLOCKS))]
        packed = pack_tokens(tokens)
        lease = warden.admit(tenant, pack_tokens([*tokens, *TAIL]))
        new = [BlockId(next(self._blocks)) for _ in range(len(tokens) - lease.n_blocks)]
        warden.store(tenant, lease, packed, new)
        job = warden.computed(tenant, lease, packed)
        if clear and job is not None:
            warden.settle(job, [Verdict.SHAREABLE] * job.full_blocks)
        warden.release(lease)

    def measure(self, cleared: int) -> dict[str, Any]:
        """Times of ticks before each of which `cleared` prompts were sent and cleared."""
        times, cpu, promoted = [], [], 0
        for _ in range(self._plan.ticks):
            for _ in range(cleared):
                self._send(clear=True)
            began, began_cpu = time.perf_counter(), time.thread_time()
            promoted += self.warden.tick()
            times.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - began_cpu) * 1e3)
        stats = self.warden.stats()
        return {
            "nodes": stats.nodes,
            "blocks": stats.blocks,
            "shared_blocks": stats.shared_blocks,
            "cleared_prompts": cleared,
            "promoted_blocks": promoted,
            "tick_ms": {
                "p50": round(quantile(times, 0.5), 4),
                "p99": round(quantile(times, 0.99), 4),
                "max": round(max(times), 4),
                "n": len(times),
            },
            # What a busy machine adds to the time it does not add to this.
            "cpu_ms": {"p50": round(quantile(cpu, 0.5), 4), "max": round(max(cpu), 4)},
            "samples_ms": [round(one, 4) for one in times],
        }
