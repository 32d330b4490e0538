"""`safekv bench tick`: what the end of an epoch costs, by the size of the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import counts, publish, steps
from safekv.types import Profile


@click.command()
@click.option(
    "--nodes", default="10000,100000,1000000", show_default=True, callback=counts, help="Sizes."
)
@click.option("--ticks", default=30, show_default=True, type=click.IntRange(1))
@click.option(
    "--profile",
    type=click.Choice([profile.value for profile in Profile]),
    default=Profile.PAPER.value,
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def tick(nodes: tuple[int, ...], ticks: int, profile: str, as_json: bool, out: Path | None) -> None:
    """Time the end of an epoch in trees of 100 tenants, with 0, 64 and 512 prompts to be shared.

    Exit status: 0 measured, 2 wrong option, 130 interrupted (what was finished is printed,
    marked partial).
    """
    from safekv.bench.record import environment
    from safekv.bench.tick import TickPlan, run

    plan = TickPlan(nodes=nodes, ticks=ticks, profile=Profile(profile))
    with steps("safekv bench tick") as report:
        result = run(plan, report)
    record = {"benchmark": "tick", **result, "environment": environment()}
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)
    if result["partial"]:
        raise SystemExit(130)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"one epoch tick, profile {record['plan']['profile']}")
    for heading in (
        "nodes",
        "prompts to share",
        "blocks shared",
        "p50 (ms)",
        "p99",
        "max",
        "CPU p50 (ms)",
    ):
        table.add_column(heading, justify="right")
    for row in record["rows"]:
        times = row["tick_ms"]
        table.add_row(
            f"{row['nodes']:,}",
            str(row["cleared_prompts"]),
            str(row["promoted_blocks"]),
            *(f"{times[key]:.2f}" for key in ("p50", "p99", "max")),
            f"{row['cpu_ms']['p50']:.2f}",
        )
    return table
