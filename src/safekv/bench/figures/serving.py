"""Pictures of `bench serve` and `bench gpu`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from safekv.bench.figures.style import (
    INK,
    LOOKS,
    finish,
    grouped_bars,
    grouped_dots,
    log_axis,
    pyplot,
)
from safekv.bench.records import Record, of

MODES = ("stock", "global", "isolated", "selective")


TOY = "random:toy"
"""A model whose times mean nothing; what prompts find does not depend on the model."""


def _latest_rows(records: list[Record], toys: bool = False) -> dict[str, dict[str, Any]]:
    """Workload -> mode -> row, from the latest record that has the workload warm."""
    rows: dict[str, dict[str, Any]] = {}
    for record in of(records, "serve"):
        if not record["plan"].get("cold") and (toys or record["model_name"] != TOY):
            for name, modes in record["workloads"].items():
                if not modes.keys() & {"selective", "stock"}:
                    continue
                rows[name] = modes
    return rows


def _series(
    rows: dict[str, dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    sides: Sequence[str] = MODES,
) -> dict[str, list[float | None]]:
    """Mode -> a value for each workload."""
    modes = [mode for mode in sides if any(mode in row for row in rows.values())]
    return {
        mode: [value(row[mode]) if mode in row else None for row in rows.values()] for mode in modes
    }


def _spread(key: str, share: str, row: dict[str, Any]) -> float | None:
    return row[key][share] if row[key] else None


def latency(records: list[Record]) -> Any | None:
    """Median time to first token of first turns and of all, by workload and mode."""
    rows = _latest_rows(records)
    if not rows:
        return None
    figure, both = pyplot().subplots(1, 2, figsize=(10, 4.2), sharey=True)
    titles = (("ttft_first_turn_s", "a tenant's first turn"), ("ttft_s", "all turns"))
    for axes, (key, title) in zip(both, titles, strict=True):
        medians, tops = (_series(rows, partial(_spread, key, share)) for share in ("p50", "p95"))
        grouped_dots(axes, list(rows), medians, tops)
        axes.set_xlabel("workload")
        axes.set_title(title, loc="left", fontsize=10)
    both[0].set_ylabel("seconds, log scale")
    return finish(figure, "Time to first token: medians, with a mark at the 95th percentile")


def throughput(records: list[Record]) -> Any | None:
    """Tokens a second when everything is sent at once, by workload and mode."""
    rows = _latest_rows(records)
    if not any(row.get("throughput_tok_s") for modes in rows.values() for row in modes.values()):
        return None
    figure, axes = pyplot().subplots(figsize=(7.5, 4))
    grouped_bars(axes, list(rows), _series(rows, lambda row: row["throughput_tok_s"]))
    axes.set_ylabel("prompt and answer tokens per second")
    axes.set_xlabel("workload")
    return finish(figure, "Throughput, all requests sent at once (median of runs)")


def hit_rate(records: list[Record]) -> Any | None:
    """The share of prompt tokens that was found, by workload and mode."""
    rows = _latest_rows(records, toys=True)
    if not rows:
        return None
    figure, axes = pyplot().subplots(figsize=(7.5, 4.2))
    percent = _series(rows, lambda row: None if row["hit_rate"] is None else 100 * row["hit_rate"])
    grouped_bars(axes, list(rows), percent)
    axes.set_ylabel("hit rate, % of prompt tokens")
    axes.set_xlabel("workload")
    return finish(figure, "What prompts find, by workload")


STATES = ("global", "selective", "selective:off", "selective:saturated", "selective:dead")


def detector(records: list[Record]) -> Any | None:
    """Time to first token and throughput by state of the detector."""
    rows: dict[str, dict[str, Any]] = {}
    for record in of(records, "serve"):
        if record["model_name"] == TOY:
            continue
        rows |= {
            name: modes
            for name, modes in record["workloads"].items()
            if any(mode.startswith("selective:") for mode in modes)
        }
    if not rows:
        return None
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10, 4.2))
    medians, tops = (
        _series(rows, partial(_spread, "ttft_s", share), STATES) for share in ("p50", "p95")
    )
    grouped_dots(left, list(rows), medians, tops)
    left.set_ylabel("seconds, log scale")
    left.set_title("time to first token (mark: p95)", loc="left", fontsize=10)
    grouped_bars(right, list(rows), _series(rows, lambda row: row["throughput_tok_s"], STATES))
    right.set_ylabel("prompt and answer tokens per second")
    right.set_title("throughput, all sent at once", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("workload")
    return finish(figure, "The detector under load", columns=3)


def own_cpu(records: list[Record]) -> Any | None:
    """Where our part of the server's CPU goes, in `selective`."""
    rows = {name: modes["selective"] for name, modes in _latest_rows(records).items()
            if modes.get("selective", {}).get("cpu", {}).get("shares")}  # fmt: skip
    if not rows:
        return None
    shares = [row["cpu"]["shares"] for row in rows.values()]
    names = sorted({name for one in shares for name in one} - {"sampler"})
    names = [name for name in names if any(one.get(name, 0) > 5e-5 for one in shares)]
    figure, axes = pyplot().subplots(figsize=(7.5, 4.2))
    hatches = ("", "////", "....", "xxxx", "\\\\\\\\", "++", "oo", "--", "**", "||")
    bottom = [0.0] * len(rows)
    for n, name in enumerate(names):
        values = [100 * one.get(name, 0.0) for one in shares]
        grey = str(round(0.95 - 0.75 * n / max(1, len(names) - 1), 3))
        axes.bar(range(len(rows)), values, 0.6, bottom=bottom, color=grey, edgecolor=INK,
                 hatch=hatches[n % len(hatches)], linewidth=0.8, label=name)  # fmt: skip
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    axes.axhline(1.0, color=INK, linewidth=1.2, linestyle="--", label="aim: 1 %")
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_xlabel("workload")
    axes.set_ylabel("% of the server's CPU time")
    return finish(figure, "CPU time in safekv's code, mode selective")


def gpu(records: list[Record]) -> Any | None:
    """Time to first token by length of the common prompt, from `bench gpu`."""
    found = of(records, "gpu")
    if not found:
        return None
    record = found[-1]
    figure, axes = pyplot().subplots(figsize=(7.5, 4.2))
    for mode in MODES:
        cells = sorted(
            (cell["common_words"], cell["modes"][mode]["ttft_first_turn_s"]["p50"])
            for cell in record["cells"]
            if cell["sweep"] == "length" and cell["modes"].get(mode, {}).get("ttft_first_turn_s")
        )
        if cells:
            look = LOOKS[mode]
            axes.plot(*zip(*cells, strict=True), marker=look.mark, color=INK, linewidth=1,
                      markerfacecolor=look.fill, markersize=7, label=look.label)  # fmt: skip
    log_axis(axes.xaxis, axes.set_xscale, base=2)
    log_axis(axes.yaxis, axes.set_yscale)
    axes.set_xlabel("words that all prompts have in common, log scale")
    axes.set_ylabel("seconds to the first token, log scale")
    where = f"{record['model_name']} on {record['model']['device']}"
    return finish(figure, f"First turns, medians: {where}")
