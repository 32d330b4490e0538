"""`safekv bench detector`: what requests feel of detection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(2))
@click.option("--rules-only", is_flag=True, help="Leave out stage 2.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def detector(model: str, rounds: int, rules_only: bool, as_json: bool, out: Path | None) -> None:
    """Time to first token with the detector saturated, against the same engine with it idle.

    Interleaved, in one engine; the detector's process is the one that `safekv serve` starts. A
    ratio of 1.02 means 2 % later. Exit status: 0 measured, 1 the detector failed, 2 bad model.
    """
    from safekv.bench import detector as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import model_progress
    from safekv.detect.config import DetectConfig
    from safekv.engines.hf.store import model_id, resolve_model

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    config = DetectConfig(stages=("rules",) if rules_only else ("rules", "classifier"))
    plan = measured.DetectorPlan(rounds=rounds)
    with steps("safekv bench detector") as progress:
        result = asyncio.run(measured.run(model_id(model), source, config, plan, progress))
    record = {"benchmark": "detector", "model": model_id(model), **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['model']}: TTFT beside the stages {', '.join(record['stages'])}")
    for heading in ("prompt", "idle (s)", "saturated (s)", "ratio [95 % interval]"):
        table.add_column(heading, justify="left" if heading == "prompt" else "right")
    medians = record["median_ttft_s"]
    for kind, ratio in record["ratio_saturated_to_idle"].items():
        shown = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        table.add_row(
            kind, f"{medians['idle'][kind]:.3f}", f"{medians['saturated'][kind]:.3f}", shown
        )
    return table
