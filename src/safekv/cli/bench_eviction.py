"""`safekv bench eviction`: what the order of eviction is worth on a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps


@click.command()
@click.option(
    "--trace",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A trace, in any format that `safekv bench replay` reads.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def eviction(trace: Path, as_json: bool, out: Path | None) -> None:
    """Replay a trace through the prefix tree under each order of eviction.

    Hit rates, no times. Exit status: 0 measured, 2 not a trace.
    """
    from safekv.bench import eviction as measured
    from safekv.bench.record import environment

    requests = measured.read(trace)
    with steps("safekv bench eviction") as report:
        result = measured.run(requests, measured.EvictionPlan(), report)
    record = {"benchmark": "eviction", "trace": trace.name, **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['trace']}: hit rate (popular prefixes kept)")
    for heading in ("flood", "budget", "lru", "reused-floor"):
        table.add_column(heading, justify="right")
    cells: dict[tuple[float, float], dict[str, str]] = {}
    for row in record["rows"]:
        shown = f"{row['hit_rate']:.2%} ({row['popular_prefix_kept']:.1%})"
        cells.setdefault((row["flood"], row["budget"]), {})[row["order"]] = shown
    for (flood, budget), shown_by in cells.items():
        table.add_row(f"{flood:.0%}", f"{budget:.1%}", shown_by["lru"], shown_by["reused-floor"])
    return table
