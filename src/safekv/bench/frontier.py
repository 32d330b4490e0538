"""How much of what sharing is worth each policy keeps, and what an attacker gets for it.

A trace is replayed as by `safekv bench replay`, with as much memory as it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from safekv.bench.policies import POLICIES, UNGUARDED, Guarded, Memory, Policy
from safekv.bench.replay import score
from safekv.bench.traces import Trace
from safekv.bench.workload import Dealing, Workload, deal
from safekv.types import Profile
from safekv.warden import WardenConfig

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the frontier. `advantage` is what an attacker gains on a text that the
    detector let pass, per block and window."""

    name: str
    config: WardenConfig
    advantage: float
    guarded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPlan:
    """Tenants, shares of secret texts, and (L, W) pairs to replay; epochs in the trace's time."""

    tenants: tuple[int, ...] = (10, 100, 1000)
    sensitive: tuple[float, ...] = (0.1, 0.3, 0.5)
    thresholds: tuple[tuple[int, int], ...] = ((2, 2), (2, 8), (8, 32))
    epoch_s: float = 1.0
    seed: int = 0

    def points(self) -> list[Point]:
        """SafeKV's own point with and without its monitor, and `anonymous` at each pair."""
        paper = WardenConfig(epoch_s=self.epoch_s)
        found = [Point("paper", paper, 1.0), Point("paper, no safeguard", paper, 1.0, False)]
        for low, width in self.thresholds:
            config = WardenConfig(
                profile=Profile.ANONYMOUS,
                threshold_low=low,
                threshold_width=width,
                epoch_s=self.epoch_s,
            )
            found.append(Point(f"anonymous L={low} W={width}", config, 1 / width))
        return found


def run(trace: Trace, plan: FrontierPlan, report: Report) -> dict[str, object]:
    """Hit rates and shares of the gap, as JSON types. Some seconds per replay."""
    points, rows = plan.points(), list[dict[str, object]]()
    total = len(plan.tenants) * (2 + len(plan.sensitive) * len(points))
    done = count(1)

    def rate(policy: Policy, workload: Workload) -> float:
        found = score(policy, workload, plan.epoch_s, lambda n: None)
        report(next(done), total)
        return float(found["hit_rate"])

    for tenants in plan.tenants:
        ends = dict[str, float]()
        for share in plan.sensitive:
            workload = deal(trace, Dealing(tenants=tenants, sensitive=share, seed=plan.seed))
            for name in ("isolated", "global") if not ends else ():
                # Who sends what does not depend on the share, and these two ask for no verdict.
                ends[name] = rate(POLICIES[name](workload, Memory(), plan.epoch_s), workload)
            gap = ends["global"] - ends["isolated"]
            for point in points:
                off = None if point.guarded else UNGUARDED
                hit_rate = rate(Guarded(workload, Memory(), point.config, off), workload)
                rows.append(
                    {
                        "tenants": tenants,
                        "sensitive": share,
                        "policy": point.name,
                        "hit_rate": hit_rate,
                        **ends,
                        "recovered": (hit_rate - ends["isolated"]) / gap if gap > 0 else None,
                        "advantage": point.advantage,
                    }
                )
    return {"requests": len(trace.requests), "epoch_s": plan.epoch_s, "rows": rows}
