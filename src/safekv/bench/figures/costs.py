"""Pictures of what is measured without a server: replay, engine, ticks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safekv.bench.figures.style import INK, finish, log_axis, pyplot
from safekv.bench.records import Record, of

POLICIES = {
    "isolated": ("isolated", "#8c8c8c", ""),
    "safekv-anonymous": ("safekv, anonymous", "#ffffff", "////"),
    "safekv-paper": ("safekv, paper", "#1f4e79", ""),
    "oracle": ("oracle", "#ffffff", ""),
    "global": ("global (unsafe)", "#d9d9d9", "\\\\\\\\"),
}


def _settings(records: list[Record]) -> dict[str, Record]:
    """Replays by what was varied, the latest of each."""
    found: dict[str, Record] = {}
    for record in of(records, "replay"):
        secret = record["secret_requests"] / record["requests"]
        memory = "all memory"
        if record["capacity_blocks"]:
            share = record["capacity_blocks"] / record["distinct_blocks"]
            memory = f"memory {share:.0%}"
            if record["overcommit"] > 1:
                memory += f", overcommit {record['overcommit']:g}"
            if record.get("quota_part", 1) < 1:
                memory += f", quota {record['quota_part']:g}"
        dealing = record.get("dealing", {})
        if dealing.get("recall", 1) < 1 or dealing.get("false_flags", 0) > 0:
            memory += f"\nfound {dealing['recall']:.0%}, false {dealing['false_flags']:.0%}"
        name = f"{record['trace'].partition('_')[0]}, {record['bound']}\n"
        name += f"{record['tenants']} tenants\n{secret:.0%} secret, {memory}"
        found[name] = record
    return found


def replay(records: list[Record]) -> Any | None:
    """Hit rates by policy, for each setting that was replayed."""
    settings = _settings(records)
    if not settings:
        return None
    figure, axes = pyplot().subplots(figsize=(9, 0.85 * len(settings) + 1.4))
    height = 0.8 / len(POLICIES)
    for place, record in enumerate(settings.values()):
        for n, (policy, (label, fill, hatch)) in enumerate(POLICIES.items()):
            row = record["policies"].get(policy, {})
            if "hit_rate" in row:
                y = place + (n - (len(POLICIES) - 1) / 2) * height
                axes.barh(y, 100 * row["hit_rate"], height * 0.92, color=fill, hatch=hatch,
                          edgecolor=INK, linewidth=0.8, label=label)  # fmt: skip
    axes.set_yticks(range(len(settings)), list(settings), fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("hit rate, % of prompt tokens")
    return finish(figure, "What sharing finds, replayed in logical time", columns=5)


def engine(records: list[Record]) -> Any | None:
    """Ratios to transformers' own cache with their intervals, record by record."""
    found = of(records, "engine")
    if not found:
        return None
    names = {"ttft_miss_s": "TTFT, miss", "ttft_hit_s": "TTFT, hit", "throughput_tok_s": "tok/s"}
    figure, axes = pyplot().subplots(figsize=(7.5, 0.34 * len(found) * len(names) + 1.5))
    labels = []
    for n, (key, label) in enumerate(names.items()):
        for m, record in enumerate(found):
            ratio = record["ratio_safekv_to_transformers"][key]
            y = n * (len(found) + 0.8) + m
            axes.plot([ratio["low"], ratio["high"]], [y, y], color=INK, linewidth=1.2)
            axes.plot([ratio["value"]], [y], marker="D", color="#1f4e79", markersize=6)
            labels.append((y, f"{label}, record {m + 1}"))
    axes.axvline(1.0, color=INK, linewidth=1, linestyle="--")
    axes.set_yticks([y for y, _ in labels], [text for _, text in labels], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlabel("safekv / transformers' own cache (1: no difference)")
    return finish(figure, "The embedded engine with and without safekv's cache, 95 % intervals")


def tick(records: list[Record]) -> Any | None:
    """The CPU time a tick takes by the size of the tree: what else runs adds nothing to it."""
    found = of(records, "tick")
    if not found:
        return None
    figure, axes = pyplot().subplots(figsize=(7.5, 4.4))
    marks = ("o", "s", "^", "D", "v")
    for n, (cleared, points) in enumerate(_by_cleared(found[-1])):
        nodes, medians, slowest = zip(*points, strict=True)
        grey = str(round(0.95 - 0.3 * n, 2))
        axes.plot(nodes, medians, marker=marks[n % len(marks)], color=INK, linewidth=1.2,
                  markerfacecolor=grey, markersize=7,
                  label=f"{cleared} prompts to share: median")  # fmt: skip
        axes.plot(nodes, slowest, marker=marks[n % len(marks)], color=INK, linewidth=0.7,
                  linestyle=":", markerfacecolor=grey, markersize=4,
                  label=f"{cleared}: slowest")  # fmt: skip
    log_axis(axes.xaxis, axes.set_xscale)
    log_axis(axes.yaxis, axes.set_yscale)
    axes.set_xlabel("nodes of the tree, log scale")
    axes.set_ylabel("milliseconds of CPU, log scale")
    return finish(figure, "One epoch tick, off the request path", columns=3)


def _by_cleared(record: Record) -> Iterator[tuple[int, list[tuple[float, float, float]]]]:
    for cleared in dict.fromkeys(row["cleared_prompts"] for row in record["rows"]):
        yield (
            cleared,
            [
                (row["nodes"], row["cpu_ms"]["p50"], row["cpu_ms"]["max"])
                for row in record["rows"]
                if row["cleared_prompts"] == cleared
            ],
        )
