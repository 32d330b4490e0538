"""What the runs amount to: numbers per workload and mode, ratios, headline and bars."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from safekv.bench.serving.plan import ServePlan
from safekv.bench.stats import Ratio, clustered_ratio, spread

Run = dict[str, Any]
Row = dict[str, Any]
PAIRS: Final = (
    ("selective", "global"),
    ("selective", "stock"),
    ("selective", "isolated"),
    ("global", "stock"),
    ("isolated", "stock"),
)
HEADLINE: Final = "system"
"""The workload that the headline is of, where it was run."""
LONG_WORDS: Final = 2048
LEAST_RUNS: Final = 3
"""Fewer values have no interval."""


def summarise(runs: Sequence[Run], plan: ServePlan) -> dict[str, Any]:
    """`workloads`, `comparisons`, `headline`, `headlines` and `bars`, as JSON types."""
    workloads: dict[str, dict[str, Any]] = {}
    comparisons: dict[str, dict[str, Any]] = {}
    headlines: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run["workload"] for run in runs):
        mine = [run for run in runs if run["workload"] == name]
        by_mode = {mode: Group(mine, mode) for mode in dict.fromkeys(r["mode"] for r in mine)}
        workloads[name] = {mode: _numbers(group, plan.slo_s) for mode, group in by_mode.items()}
        comparisons[name] = _comparisons(by_mode)
        headlines[name] = _headline(by_mode, comparisons[name])
    chosen = HEADLINE if HEADLINE in headlines else next(iter(headlines), None)
    headline = headlines.get(chosen or "", {})
    return {
        "workloads": workloads,
        "comparisons": comparisons,
        "headline": {
            key: headline[key]["value"] if headline.get(key) else None for key in HEADLINE_KEYS
        },
        "headline_workload": chosen,
        "headlines": headlines,
        "bars": _bars(plan, workloads, comparisons),
    }


class Group:
    """All runs of one workload in one mode."""

    def __init__(self, runs: Sequence[Run], mode: str) -> None:
        self.runs = [run for run in runs if run["mode"] == mode]

    def rows(self, phase: str) -> dict[int, list[Row]]:
        """The answers of a phase by seed, in the order in which they were sent."""
        return {
            run["seed"]: run["phases"][phase]["answers"]
            for run in self.runs
            if phase in run["phases"]
        }

    def phases(self, phase: str | None = None) -> list[dict[str, Any]]:
        """What was noted of each phase, or of one."""
        return [
            found
            for run in self.runs
            for name, found in run["phases"].items()
            if phase is None or name == phase
        ]

    def total(self, phase: str | None, *path: str) -> float:
        """The sum of a number that each phase notes; 0 where it does not."""
        return sum(_dig(found, path) for found in self.phases(phase))

    def spread(
        self, key: str, which: Callable[[Row], bool] = lambda row: True
    ) -> dict[str, float | int] | None:
        """Quantiles of `key` of all paced answers that have it, the median with its interval."""
        by_run = {
            seed: [
                row[key]
                for row in rows
                if row[key] is not None and row["failed"] is None and which(row)
            ]
            for seed, rows in self.rows("paced").items()
        }
        found = spread([value for values in by_run.values() for value in values])
        if found is None:
            return None
        # Over ones, a ratio of medians is the median.
        ones = {seed: [1.0] * len(values) for seed, values in by_run.items()}
        interval = clustered_ratio(by_run, ones)
        assert interval is not None
        low, high = round(interval.low, 5), round(interval.high, 5)
        return {**found, "p50_low": low, "p50_high": high}


def _dig(found: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = found
    for key in path:
        value = value.get(key, 0) if isinstance(value, dict) else 0
    return float(value or 0)


def _numbers(group: Group, slo_s: float) -> dict[str, Any]:
    answers = [row for found in group.phases() for row in found["answers"]]
    kv = [found["kv"] for found in group.phases() if "kv" in found]
    return {
        "ttft_first_turn_s": group.spread("ttft_s", lambda row: bool(row["first"])),
        "ttft_later_turns_s": group.spread("ttft_s", lambda row: not row["first"]),
        "ttft_s": group.spread("ttft_s"),
        "tpot_s": group.spread("tpot_s"),
        "throughput_tok_s": _median([throughput(found) for found in group.phases("burst")]),
        "throughput_in_time_tok_s": _median(
            [throughput(found, slo_s) for found in group.phases("burst")]
        ),
        "hit_rate": _share(group, "paced", "hit_tokens"),
        "own_hit_rate": _share(group, "paced", "own_hit_tokens"),
        "late_share": _share(group, "paced", "late_tokens"),
        "promotion": _promotion(group),
        "kv_bytes": _median([one["kv_bytes"] for one in kv]),
        "kv_bytes_one_copy_per_tenant": _median(
            [one["kv_bytes_one_copy_per_tenant"] for one in kv]
        ),
        "own_cpu_share": own_cpu_share(group.phases()),
        "own_cpu_share_by_run": [own_cpu_share(list(run["phases"].values())) for run in group.runs],
        "cpu": _cpu(group),
        "requests": len(answers),
        "failed": sum(row["failed"] is not None for row in answers),
        "sent_late_s": spread([row["late_s"] for row in answers if row["late_s"] is not None]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(statistics.median(there), 3) if there else None


def throughput(found: Mapping[str, Any], slo_s: float | None = None) -> float | None:
    """Prompt and answer tokens served per second of a phase; of answers within `slo_s` alone."""
    rows = [row for row in found["answers"] if row["failed"] is None and row["end_s"] is not None]
    if not rows:
        return None
    over = max(row["end_s"] for row in rows)
    counted = [row for row in rows if slo_s is None or row["ttft_s"] <= slo_s]
    return float(sum(row["prompt_tokens"] + row["answer_tokens"] for row in counted) / over)


def _share(group: Group, phase: str, key: str) -> float | None:
    prompt = group.total(phase, "cache", "prompt_tokens")
    return round(group.total(phase, "cache", key) / prompt, 5) if prompt else None


def _promotion(group: Group) -> dict[str, Any] | None:
    """From first sight to being shared, over all phases and what came before them."""
    found = [
        one
        for phase in group.phases()
        for one in (*phase["promotions_before"], *phase["cache"].get("promotions", ()))
    ]
    return {key: spread([one[key] for one in found]) for key in found[0]} if found else None


def own_cpu_share(phases: Sequence[Mapping[str, Any]]) -> float | None:
    """CPU of our code, the detector's process included, in all that the server's used."""
    used = {
        key: sum(_dig(found, ("cpu", key)) for found in phases)
        for key in ("ours_s", "process_s", "detector_process_s")
    }
    ours, total = (used[key] + used["detector_process_s"] for key in ("ours_s", "process_s"))
    return round(ours / total, 5) if total else None


def _cpu(group: Group) -> dict[str, Any]:
    """Shares of the server's CPU: by package of ours, the detector's process, the sampler."""
    total = group.total(None, "cpu", "process_s") + group.total(None, "cpu", "detector_process_s")
    if not total:
        return {}
    packages = sorted(
        {name for found in group.phases() for name in found.get("cpu", {}).get("by_package_s", ())}
    )
    shares = {
        name: round(group.total(None, "cpu", "by_package_s", name) / total, 5) for name in packages
    }
    for name in ("detector_process_s", "sampler_s"):
        shares[name.removesuffix("_s")] = round(group.total(None, "cpu", name) / total, 5)
    return {"total_s": round(total, 2), "shares": shares}


# -- ratios ------------------------------------------------------------------------------------


def _comparisons(by_mode: Mapping[str, Group]) -> dict[str, Any]:
    states = [side for side in by_mode if side.startswith("selective:")]
    pairs = [*PAIRS, *((state, peer) for state in states for peer in ("selective", "global"))]
    return {
        f"{ours}/{peer}": _compare(by_mode[ours], by_mode[peer])
        for ours, peer in pairs
        if ours in by_mode and peer in by_mode
    }


def _compare(ours: Group, peer: Group) -> dict[str, Any]:
    mean = statistics.fmean
    return {
        "ttft_p50": _ratio(ours, peer, "ttft_s"),
        "ttft_mean": _ratio(ours, peer, "ttft_s", statistic=mean),
        "ttft_first_turn_p50": _ratio(ours, peer, "ttft_s", lambda row: bool(row["first"])),
        "tpot_p50": _ratio(ours, peer, "tpot_s"),
        "throughput": _throughputs(ours, peer),
    }


def _ratio(
    ours: Group,
    peer: Group,
    key: str,
    which: Callable[[Row], bool] = lambda row: True,
    statistic: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, float] | None:
    left, right = ours.rows("paced"), peer.rows("paced")
    ours_by_run, peer_by_run = dict[int, list[float]](), dict[int, list[float]]()
    for seed in left.keys() & right.keys():
        # The same request in both modes, or in neither.
        both = [
            (a[key], b[key])
            for a, b in zip(left[seed], right[seed], strict=True)
            if None not in (a[key], b[key]) and a["failed"] is b["failed"] is None and which(a)
        ]
        if both:
            ours_by_run[seed] = [a for a, _ in both]
            peer_by_run[seed] = [b for _, b in both]
    return _wire(clustered_ratio(ours_by_run, peer_by_run, statistic), len(ours_by_run))


def _throughputs(ours: Group, peer: Group) -> dict[str, float] | None:
    """The ratio of median throughputs, one a run; without an interval for fewer than three."""

    def by_run(group: Group) -> dict[int, list[float]]:
        found = {seed: throughput({"answers": rows}) for seed, rows in group.rows("burst").items()}
        return {seed: [value] for seed, value in found.items() if value is not None}

    left, right = by_run(ours), by_run(peer)
    runs = len(left.keys() & right.keys())
    found = _wire(clustered_ratio(left, right), runs)
    if found is not None and runs < LEAST_RUNS:
        return {"value": found["value"], "runs": runs}
    return found


def _wire(ratio: Ratio | None, runs: int) -> dict[str, float] | None:
    if ratio is None:
        return None
    return {**{name: round(value, 5) for name, value in asdict(ratio).items()}, "runs": runs}


# -- headline and bars -------------------------------------------------------------------------

HEADLINE_KEYS: Final = (
    "ttft_overhead_vs_global",
    "ttft_saved_vs_isolation",
    "throughput_vs_isolation",
    "gap_recovered",
)


def _headline(by_mode: Mapping[str, Group], compared: Mapping[str, Any]) -> dict[str, Any]:
    """The four rows, each `{"value", "low", "high", "runs"}` or `None` where a mode is missing."""
    rows: dict[str, Any] = dict.fromkeys(HEADLINE_KEYS)
    if over := compared.get("selective/global", {}).get("ttft_p50"):
        rows["ttft_overhead_vs_global"] = {
            **{key: round(over[key] - 1, 5) for key in ("value", "low", "high")},
            "runs": over["runs"],
        }
    if under := compared.get("selective/isolated", {}).get("ttft_mean"):
        rows["ttft_saved_vs_isolation"] = {
            "value": round(1 - under["value"], 5),
            "low": round(1 - under["high"], 5),
            "high": round(1 - under["low"], 5),
            "runs": under["runs"],
        }
    rows["throughput_vs_isolation"] = compared.get("selective/isolated", {}).get("throughput")
    rows["gap_recovered"] = _gap_recovered(by_mode)
    return rows


def _gap_recovered(by_mode: Mapping[str, Group]) -> dict[str, float] | None:
    """Of the runs that all three modes have."""
    groups = [by_mode.get(mode) for mode in ("isolated", "selective", "global")]
    seeds = [set(group.rows("paced")) if group else set() for group in groups]
    common = set.intersection(*seeds)
    if not common:
        return None
    low, ours, high = (
        _hit_rate([run for run in group.runs if run["seed"] in common])
        for group in groups
        if group is not None
    )
    if high - low < MIN_GAP:
        return None
    return {"value": round((ours - low) / (high - low), 5), "runs": len(common)}


def _hit_rate(runs: Sequence[Run]) -> float:
    phases = [run["phases"]["paced"] for run in runs]
    prompt = sum(_dig(found, ("cache", "prompt_tokens")) for found in phases)
    return sum(_dig(found, ("cache", "hit_tokens")) for found in phases) / max(1.0, prompt)


MIN_GAP: Final = 0.005
"""Where sharing finds less than this more than isolation, there is no gap to recover."""


def _bars(
    plan: ServePlan, workloads: Mapping[str, Any], comparisons: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What was aimed at, and whether the interval is on the right side of it (`met`), on the
    wrong side (`missed`) or on both (`open`, as is all that fewer than three runs say). That of
    a share of CPU goes from the lowest to the highest run."""
    bars = []
    system = comparisons.get("system", {})
    if over := system.get("selective/global", {}).get("ttft_p50"):
        bars.append(_bar("system: TTFT / global", over, most=1.03))
    more = system.get("selective/isolated", {}).get("throughput")
    if more and plan.size("system").common_words >= LONG_WORDS:
        bars.append(_bar("system: throughput / isolated", more, least=2.66))
    control = comparisons.get("control", {}).get("selective/stock", {})
    if control.get("ttft_p50"):
        bars.append(_bar("control: TTFT / stock", control["ttft_p50"], most=1.01))
    if control.get("throughput"):
        bars.append(_bar("control: throughput / stock", control["throughput"], least=0.99))
    for name, modes in workloads.items():
        share = modes.get("selective", {}).get("own_cpu_share")
        if share is not None:
            runs = modes["selective"]["own_cpu_share_by_run"]
            found = {"value": share, "low": min(runs), "high": max(runs), "runs": len(runs)}
            bars.append(_bar(f"{name}: our share of CPU", found, most=0.01))
    return bars


def _bar(
    name: str, found: Mapping[str, float], most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    low, high = found.get("low", -math.inf), found.get("high", math.inf)
    within = high <= most if most is not None else low >= (least or 0.0)
    beyond = low > most if most is not None else high < (least or 0.0)
    verdict = "met" if within else "missed" if beyond else "open"
    if found["runs"] < LEAST_RUNS:
        verdict = "open"
    limit = {"most": most} if most is not None else {"least": least}
    return {"bar": name, **limit, **found, "verdict": verdict}
