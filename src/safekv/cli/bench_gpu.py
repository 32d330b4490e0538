"""`safekv bench gpu`: a large architecture on a GPU, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.bench_serve import choose_model
from safekv.cli.measuring import publish, steps


@click.command()
@click.option("--model", default="random:llama-8b", show_default=True, help="Or a model's name.")
@click.option("--minutes", default=9.0, show_default=True, help="Begin nothing new after this.")
@click.option("--toy", is_flag=True, help="Tiny, on any device: tries the command out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def gpu(model: str, minutes: float, toy: bool, as_json: bool, out: Path | None) -> None:
    """TTFT by length of the common prompt (1k to 32k words), throughput by tenants (4 to 256).

    By default Llama 3 8B's architecture with random weights in bfloat16. Never run on a GPU by its
    authors: look at the first results twice.

    Exit status: 0 measured, 1 the server was lost or time ran out, 2 wrong option or no GPU, 130
    interrupted. What was finished is printed in any case, marked partial.
    """
    from dataclasses import replace

    from safekv.bench.record import environment
    from safekv.bench.serving.engines import ENGINES
    from safekv.bench.serving.gpu import TOY, GpuPlan, engine_settings, run

    plan = replace(TOY if toy else GpuPlan(), limit_s=60 * minutes)
    name = "random:toy" if toy else model
    settings = {} if toy else engine_settings()
    choice = choose_model("hf", name)
    with steps("safekv bench gpu") as report, ENGINES["hf"](choice, settings) as host:
        result = run(host, plan, report, toy=toy)
    record = {"benchmark": "gpu", "model_name": name, **result, "environment": environment()}
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)
    if result["partial"]:
        raise SystemExit(130 if result["stopped"] == "interrupted" else 1)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['model_name']} on {record['model']['device']}")
    for heading in ("tenants", "words in common", "mode", "TTFT p50 (s)", "tok/s", "hit rate"):
        table.add_column(heading, justify="right")
    for cell in record["cells"]:
        for mode, row in cell["modes"].items():
            ttft = row["ttft_first_turn_s"]
            table.add_row(
                str(cell["tenants"]),
                str(cell["common_words"]),
                mode,
                f"{ttft['p50']:.3f}" if ttft else "-",
                f"{row['throughput_tok_s']:.0f}" if row["throughput_tok_s"] else "-",
                "-" if row["hit_rate"] is None else f"{row['hit_rate']:.2f}",
            )
    return table
