"""A trace replayed in logical time under each policy: what sharing is worth, and what it shows.

No model and no clock of the machine. Prompt blocks only are stored; a request hits up to its
first missing block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from safekv.bench.policies import ADVANTAGE_IF_MISSED, POLICIES, Memory, Policy
from safekv.bench.traces import Trace
from safekv.bench.workload import Dealing, Placed, Workload, deal
from safekv.errors import ConfigError, SafeKVError
from safekv.warden import WardenConfig

REFERENCES: Final = ("isolated", "global")
"""What the gap is measured between; always replayed, and first."""
REPORT_EVERY: Final = 512
LONGEST_PAUSE_TICKS: Final = 2 * WardenConfig().window_epochs
"""Epochs that pass between two requests at most: by then every window has ended, and nothing
that another tick could change is left."""

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What to replay: policies by name, memory as a share of the distinct blocks (`None` for
    as much as is needed), how safekv divides it (`Memory`), and the length of an epoch in
    seconds of the trace."""

    dealing: Dealing = field(default_factory=Dealing)
    policies: Sequence[str] = tuple(POLICIES)
    budget: float | None = None
    shared_share: float | None = None
    overcommit: float = 1.0
    quota_part: float = 1.0
    epoch_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.policies:
            if name not in POLICIES:
                raise ConfigError(f"there is no policy {name}", f"use {', '.join(POLICIES)}")
        if self.budget is not None and not self.budget > 0:
            raise ConfigError(f"budget is {self.budget}", "use a share above 0")
        if not 0 < self.quota_part <= 1:
            raise ConfigError(f"quota_part is {self.quota_part}", "use a share above 0, at most 1")
        if not self.epoch_s > 0:
            raise ConfigError(f"epoch_s is {self.epoch_s}", "use more than 0 seconds")


def run(trace: Trace, plan: ReplayPlan, report: Report) -> dict[str, Any]:
    """Replay `trace` under each policy, as JSON types. Some seconds a policy.

    Interrupted by the keyboard it returns what was finished, marked `partial`.
    """
    workload = deal(trace, plan.dealing)
    memory = _memory(plan, workload)
    names = [*REFERENCES, *(name for name in plan.policies if name not in REFERENCES)]
    rows: dict[str, dict[str, Any]] = {}
    partial = False
    total = len(names) * len(workload.placed)

    def replayed(n: int) -> None:
        report(len(rows) * len(workload.placed) + n, total)

    try:
        for name in names:
            rows[name] = _row(name, workload, memory, plan, replayed)
    except KeyboardInterrupt:
        partial = True
    _compare(rows)
    return {
        "trace": trace.name,
        "format": trace.format,
        "block_tokens": trace.block_tokens,
        "requests": len(workload.placed),
        "tokens": sum(placed.input_tokens for placed in workload.placed),
        "conversations": sum(placed.first for placed in workload.placed),
        "secret_requests": sum(placed.secret for placed in workload.placed),
        "tenants": len(workload.names),
        "bound": plan.dealing.bound.value,
        "dealing": {**asdict(plan.dealing), "bound": plan.dealing.bound.value},
        "distinct_blocks": workload.distinct_blocks,
        **asdict(memory),
        "epoch_s": plan.epoch_s,
        "notes": _notes(trace, plan.dealing, len(workload.names)),
        "partial": partial,
        "policies": rows,
    }


def _notes(trace: Trace, dealing: Dealing, n_tenants: int) -> dict[str, int]:
    """What was odd about the file; and tenants that were asked for and got no request."""
    idle = dealing.tenants - n_tenants
    named = any(request.tenant is not None for request in trace.requests)
    return {**trace.notes, **({"tenants_without_requests": idle} if idle > 0 and not named else {})}


def _memory(plan: ReplayPlan, workload: Workload) -> Memory:
    capacity = None
    if plan.budget is not None:
        capacity = max(2, round(plan.budget * workload.distinct_blocks))
    return Memory(
        capacity_blocks=capacity,
        shared_share=plan.shared_share,
        overcommit=plan.overcommit,
        quota_part=plan.quota_part,
    )


def _row(
    name: str,
    workload: Workload,
    memory: Memory,
    plan: ReplayPlan,
    report: Callable[[int], None],
) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        policy = POLICIES[name](workload, memory, plan.epoch_s)
        counts = score(policy, workload, plan.epoch_s, report)
    except SafeKVError as error:
        return {"error": error.message}
    counts["attacker_advantage_if_missed"] = ADVANTAGE_IF_MISSED[name]
    return {**counts, "seconds": round(time.perf_counter() - began, 3)}


class Score:
    """What one policy achieved so far."""

    def __init__(self, policy: Policy, block_tokens: int) -> None:
        self._policy, self._size = policy, block_tokens
        self._tokens, self._hits = [0, 0], [0, 0]  # of later turns, of first turns
        self._promoted = self._secrets = self._exposed = 0
        self._asked: list[Placed] = []

    def serve(self, placed: Placed) -> None:
        """Let the policy serve a request, and count it."""
        self._tokens[placed.first] += placed.input_tokens
        self._hits[placed.first] += self._policy.serve(placed) * self._size
        if placed.secret:
            self._asked.append(placed)

    def tick(self) -> None:
        """End the epoch; then a stranger tries each secret that was sent in it."""
        self._promoted += self._policy.tick()
        self._secrets += len(self._asked)
        self._exposed += sum(self._policy.exposes(placed) for placed in self._asked)
        self._asked.clear()

    def row(self) -> dict[str, Any]:
        stored, distinct = self._policy.copies()
        return {
            "hit_rate": sum(self._hits) / sum(self._tokens),
            "first_turn_hit_rate": self._hits[1] / max(1, self._tokens[1]),
            "prefill_tokens": sum(self._tokens) - sum(self._hits),
            "duplicate_kv_ratio": stored / max(1, distinct),
            "attacker_advantage": self._exposed / self._secrets if self._secrets else None,
            "promotions": self._promoted,
        }


def score(
    policy: Policy, workload: Workload, epoch_s: float, report: Callable[[int], None]
) -> dict[str, Any]:
    """Replay `workload` under `policy`, an epoch each `epoch_s` seconds of the trace. O(blocks)."""
    found = Score(policy, workload.trace.block_tokens)
    tick_s = workload.placed[0].time_s + epoch_s
    for n, placed in enumerate(workload.placed):
        if placed.time_s >= tick_s:
            passed = int((placed.time_s - tick_s) / epoch_s) + 1
            for _ in range(min(passed, LONGEST_PAUSE_TICKS)):
                found.tick()
            tick_s += passed * epoch_s
        found.serve(placed)
        if not n % REPORT_EVERY:
            report(n)
    found.tick()
    return found.row()


def _compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add to each row which share of the gap between isolation and sharing it recovers."""
    low, high = (rows.get(name, {}).get("hit_rate", 0.0) for name in REFERENCES)
    for row in rows.values():
        if "hit_rate" in row:
            share = (row["hit_rate"] - low) / (high - low) if high > low > 0 else None
            row["gap_recovered"] = share
