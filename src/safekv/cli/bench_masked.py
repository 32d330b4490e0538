"""`safekv bench masked`: what masked release hides, and what it costs."""

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
@click.option("--prompt-tokens", default=257, show_default=True, type=click.IntRange(33))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def masked(model: str, rounds: int, prompt_tokens: int, as_json: bool, out: Path | None) -> None:
    """Hits on another tenant's prompt beside misses, in three engines, interleaved.

    AUC 0.5 and a small distance: the times do not tell hits from misses. `beta` is the share of
    answers ready only after the schedule, which bounds what one probe can learn. Prints also what
    a miss takes, relative to `isolated`, and the prompt tokens per second that an engine which
    knows a prompt works off. Exit status: 0 measured, 1 a prompt did not become shared, 2 bad
    model.
    """
    from safekv.bench import masked as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    plan = measured.MaskedPlan(rounds=rounds, prompt_tokens=prompt_tokens)
    with steps("safekv bench masked") as progress:
        result = asyncio.run(measured.run(model_id(model), source, plan, progress))
    record = {"benchmark": "masked", "model": model_id(model), **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    beta, cost = record["beta"], record["ttft_cost"]
    table = Table(
        title=f"{record['model']}: hits and misses of a stranger's prompt",
        caption=f"beta {beta['value']:.3f} [{beta['low']:.3f}, {beta['high']:.3f}]; a masked miss"
        f" takes {cost['value']:.2f} [{cost['low']:.2f}, {cost['high']:.2f}] of an isolated one",
    )
    headings = (
        "side",
        "hit TTFT (s)",
        "miss TTFT (s)",
        "AUC [95 %]",
        "KS (p)",
        "AUC, whole",
        "rate",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for name, row in record["told"].items():
        table.add_row(
            name,
            f"{row['median_hit_ttft_s']:.3f}",
            f"{row['median_miss_ttft_s']:.3f}",
            f"{row['auc_ttft']:.2f} [{row['auc_ttft_low']:.2f}, {row['auc_ttft_high']:.2f}]",
            f"{row['ks_ttft']:.2f} ({row['ks_p']:.2g})",
            f"{row['auc_total']:.2f}",
            f"{record['throughput_gain'][name]:.2f}",
        )
    return table
