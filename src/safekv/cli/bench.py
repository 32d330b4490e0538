"""`safekv bench`: what safekv costs, measured beside its peers in the same run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.bench_cloak import cloak
from safekv.cli.bench_collusion import collusion
from safekv.cli.bench_compare import compare
from safekv.cli.bench_detector import detector
from safekv.cli.bench_drift import drift
from safekv.cli.bench_eviction import eviction
from safekv.cli.bench_frontier import frontier
from safekv.cli.bench_gpu import gpu
from safekv.cli.bench_masked import masked
from safekv.cli.bench_replay import replay
from safekv.cli.bench_report import report
from safekv.cli.bench_serve import serve
from safekv.cli.bench_tick import tick
from safekv.cli.bench_tiers import tiers
from safekv.cli.bench_tree import tree
from safekv.cli.bench_vllm import vllm
from safekv.cli.measuring import publish, steps


@click.group()
def bench() -> None:
    """Measure what the prefix cache costs."""


bench.add_command(tree)
bench.add_command(eviction)
bench.add_command(replay)
bench.add_command(serve)
bench.add_command(cloak)
bench.add_command(collusion)
bench.add_command(drift)
bench.add_command(frontier)
bench.add_command(masked)
bench.add_command(tiers)
bench.add_command(detector)
bench.add_command(tick)
bench.add_command(compare)
bench.add_command(report)
bench.add_command(gpu)
bench.add_command(vllm)


@bench.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(2))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def engine(model: str, rounds: int, as_json: bool, out: Path | None) -> None:
    """The embedded engine with safekv's cache against the same engine with its own.

    safekv's judges prompts beside it, as `safekv serve` does. Both loops share one model and
    are interleaved. Ratios are safekv / transformers: below 1 is faster for TTFT, above 1 is
    faster for throughput. Exit status: 0 measured, 2 bad model.
    """
    from safekv.bench import engine as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import model_progress
    from safekv.detect.config import DetectConfig
    from safekv.detect.process import DetectorProcess
    from safekv.engines.hf.store import model_id, resolve_model

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    detector = DetectorProcess(DetectConfig(), lambda stage, reason: None)
    plan = measured.EnginePlan(rounds=rounds)
    detector.start()
    try:
        with steps("safekv bench engine") as progress:
            result = asyncio.run(measured.run(model_id(model), source, detector, plan, progress))
    finally:
        detector.stop()
    stages = list(DetectConfig().stages)
    record = {"benchmark": "engine", "model": model_id(model), "stages": stages, **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


ROWS = {
    "ttft_miss_s": "TTFT, miss (s)",
    "ttft_hit_s": "TTFT, hit (s)",
    "throughput_tok_s": "throughput (tokens/s)",
}


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['model']}: safekv's cache against transformers' own")
    for heading in ("median", "safekv", "transformers", "ratio [95 % interval]"):
        table.add_column(heading, justify="left" if heading == "median" else "right")
    for key, label in ROWS.items():
        ratio = record["ratio_safekv_to_transformers"][key]
        table.add_row(
            label,
            f"{record['median']['safekv'][key]:.3f}",
            f"{record['median']['transformers'][key]:.3f}",
            f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        )
    return table
