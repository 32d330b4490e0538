"""`safekv bench drift`: do greedy answers tell a hit from a miss?"""

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
@click.option("--prompts", default=20, show_default=True, type=click.IntRange(1))
@click.option("--dtype", "dtypes", multiple=True, help="[default: float32 and bfloat16]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def drift(
    model: str, prompts: int, dtypes: tuple[str, ...], as_json: bool, out: Path | None
) -> None:
    """Greedy answers to a prompt that is computed, computed again, and found shared.

    Prints the share of answers that differ from the first, with its exact interval. What differs
    when it is computed again tells nothing of hits. Exit status: 0 measured, 1 a prompt did not
    become shared, 2 bad model.
    """
    from safekv.bench import drift as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    plan = measured.DriftPlan(prompts=prompts, dtypes=dtypes or measured.DTYPES)
    with steps("safekv bench drift") as progress:
        result = asyncio.run(measured.run(model_id(model), source, plan, progress))
    record = {"benchmark": "drift", "model": model_id(model), **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['model']}: greedy answers that differ from the first one's")
    for heading in ("dtype", "found shared [95 %]", "computed again [95 %]", "prompts"):
        table.add_column(heading, justify="left" if heading == "dtype" else "right")
    for dtype, row in record["differing"].items():
        shown = [
            f"{row[kind]['value']:.3f} [{row[kind]['low']:.3f}, {row[kind]['high']:.3f}]"
            for kind in ("hit", "miss_again")
        ]
        table.add_row(dtype, *shown, str(row["hit"]["prompts"]))
    return table
