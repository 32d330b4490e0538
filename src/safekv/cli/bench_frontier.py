"""`safekv bench frontier`: what each policy keeps of sharing, and what it gives away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import counts, publish, steps
from safekv.demo.svg import Canvas

LEFT, TOP, WIDTH, HEIGHT = 70.0, 60.0, 470.0, 260.0
KINDS = {"paper": "decoy", "anonymous": "target"}


@click.command()
@click.option(
    "--trace",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="A trace as `safekv bench replay` reads it, or made:application, made:documents.",
)
@click.option("--tenants", default="10,100,1000", show_default=True, callback=counts)
@click.option(
    "--sensitive",
    default="10,30,50",
    show_default=True,
    callback=counts,
    help="Percent of texts that are secret.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a trace on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the frontier into this file.")
def frontier(
    trace: tuple[Path, ...],
    tenants: tuple[int, ...],
    sensitive: tuple[int, ...],
    as_json: bool,
    out: Path | None,
    svg: Path | None,
) -> None:
    """Replay a trace under each policy, once per number of tenants and share.

    The gap is what a stock engine hits more without a salt per tenant than with one; the
    advantage is an attacker's on a text that the detector let pass, per block and window. Hit
    rates, no times; some minutes.
    Exit status: 0 measured, 2 not a trace.
    """
    from safekv.bench import frontier as measured
    from safekv.bench.record import environment
    from safekv.bench.traces import read_trace

    shares = tuple(percent / 100 for percent in sensitive)
    plan = measured.FrontierPlan(tenants=tenants, sensitive=shares)
    records = []
    for path in trace:
        with steps(f"safekv bench frontier {path.name}") as report:
            result = measured.run(read_trace(path), plan, report)
        record = {"benchmark": "frontier", "trace": path.name, **result}
        record["environment"] = environment()
        records.append(record)
        publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)
    if svg is not None:
        svg.write_text(figure(*records))


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['trace']}: share of the sharing gap recovered")
    for heading in ("tenants", "sensitive", "policy", "hit rate", "recovered", "advantage"):
        table.add_column(heading, justify="right")
    for row in record["rows"]:
        table.add_row(
            str(row["tenants"]),
            f"{row['sensitive']:.0%}",
            row["policy"],
            f"{row['hit_rate']:.2%}",
            "-" if row["recovered"] is None else f"{row['recovered']:.1%}",
            f"≤ {row['advantage']:.3f}",
        )
    return table


def figure(*records: dict[str, Any]) -> str:
    """The frontier as SVG: recovered share over advantage, one mark per row of each record."""
    canvas = Canvas(600, 390, "Share of the sharing gap recovered over the attacker's advantage")
    canvas.text(LEFT, 28, "What each policy keeps, and what it gives away", "title")
    names = ", ".join(str(record["trace"]) for record in records)
    canvas.text(LEFT, 46, f"{names}; a mark per number of tenants and share", "soft")
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line(LEFT, _y(part), LEFT + WIDTH, _y(part), "rule")
        canvas.text(LEFT - 8, _y(part) + 4, f"{part:.0%}", "soft", "end")
        canvas.text(_x(part), TOP + HEIGHT + 20, f"{part:g}", "soft", "middle")
    canvas.text(LEFT + WIDTH / 2, TOP + HEIGHT + 44, "attacker's advantage, at most", "", "middle")
    shown = set()
    rows = [(record["trace"], row) for record in records for row in record["rows"]]
    for name, row in rows:
        if row["recovered"] is None:
            continue
        family = row["policy"].partition(" ")[0].rstrip(",")
        what = f"{name}, {row['policy']}: {row['tenants']} tenants, {row['sensitive']:.0%} secret"
        canvas.dot(_x(row["advantage"]), _y(row["recovered"]), f"ring {KINDS[family]}", what)
        shown.add((family, KINDS[family]))
    for n, (family, kind) in enumerate(sorted(shown)):
        canvas.dot(LEFT + 12, TOP + 14 + 18 * n, f"ring {kind}", family)
        canvas.text(LEFT + 22, TOP + 18 + 18 * n, family)
    return canvas.render(standalone=True)


def _x(advantage: float) -> float:
    return LEFT + advantage * WIDTH


def _y(recovered: float) -> float:
    return TOP + (1 - recovered) * HEIGHT
