"""`safekv audit calibrate`: how often is the audit itself wrong?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.errors import ExitCode
from safekv.cli.measuring import publish, steps


@click.command()
@click.option(
    "--audits",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Simulated audits of an isolated endpoint under each noise.",
)
@click.option(
    "--power-audits",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Simulated audits of a leak of each size.",
)
@click.option("--blocks", default=60, show_default=True, type=click.IntRange(min=6))
@click.option("--alpha", default=0.01, show_default=True, help="Nominal false-alarm rate.")
@click.option("--seed", default=0, show_default=True, help="Noise and orders.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def calibrate(
    audits: int,
    power_audits: int,
    blocks: int,
    alpha: float,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> int:
    """Audit simulated endpoints, isolated ones and leaking ones, and count the errors.

    Sends nothing. The defaults take about half an hour. Exit status: 0 the false-alarm rate is
    not above the nominal one under any noise, 1 it is, 2 wrong usage, 130 interrupted.
    """
    from safekv.audit.endpoint.calibration import calibrate as run
    from safekv.audit.endpoint.judge import Rules
    from safekv.bench.record import environment

    rules = Rules(alpha=alpha)
    with steps("safekv audit calibrate") as progress:
        result = run(audits, power_audits, blocks, rules, seed=seed, hear=progress)
    record = {"record": "calibration", **result, "environment": environment()}
    publish(record, _show, as_json=as_json, out=out)
    return ExitCode.OK if result["calibrated"] else ExitCode.FAILED


def _show(record: dict[str, Any]) -> None:
    table = Table(title=f"nominal false-alarm rate {record['alpha']:g}")
    for heading in ("simulated endpoint", "audits", "leak claimed", "95 %", "verdicts"):
        table.add_column(heading)
    for row in record["false_alarms"]:
        table.add_row(f"isolated, {row['noise']}", *_cells(row))
    for row in record["power"]:
        table.add_row(f"leak of AUC {row['auc']:.2f}", *_cells(row))
    Console().print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    alarms = row["alarms"]
    verdicts = ", ".join(f"{count} {name}" for name, count in row["verdicts"].items() if count)
    low, high = alarms["ci"]
    return [str(row["audits"]), f"{alarms['rate']:.2%}", f"{low:.2%} to {high:.2%}", verdicts]
