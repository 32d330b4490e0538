"""`safekv bench collusion`: what attackers with several accounts get out of each profile."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import counts, publish, steps


@click.command()
@click.option("--accounts", default="1,2,10,50,100", show_default=True, callback=counts)
@click.option(
    "--plays",
    default=1000,
    show_default=True,
    type=click.IntRange(50),
    help="Plays of the threshold attack in each world, per number of accounts.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def collusion(accounts: tuple[int, ...], plays: int, as_json: bool, out: Path | None) -> None:
    """Let colluding accounts attack the real warden, whose detector clears everything.

    Answers are right guesses confirmed within one window; advantage is how much more often the
    attacker is right about whether the victim sent a text, under the profile anonymous.
    Exit status: 0 measured, 2 wrong usage.
    """
    from safekv.audit import collusion as played
    from safekv.audit.threshold import ThresholdPlan, advantage
    from safekv.bench.record import environment

    total, done = len(accounts) * (4 + plays), 0
    with steps("safekv bench collusion") as report:

        def step() -> None:
            nonlocal done
            done += 1
            report(done, total)

        rows = [asdict(row) for row in played.run(accounts, step)]
        advantages = []
        for n in accounts:
            found = advantage(ThresholdPlan(accounts=n, plays=plays), step)
            one = {"accounts": n, "advantage": found.measured.value, "bound": found.bound}
            advantages.append({**one, "ci_low": found.measured.low, "ci_high": found.measured.high})
    record = {"benchmark": "collusion", "plays": plays, "rows": rows, "advantage": advantages}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title="Answers per window, and advantage under anonymous [95 % interval]")
    for heading in ("accounts", "paper, patient", "paper, in a burst", "anonymous", "advantage"):
        table.add_column(heading, justify="right")
    answers = {(row["profile"], row["accounts"], row["ticks"]): row for row in record["rows"]}
    for one in record["advantage"]:
        n = one["accounts"]
        cells = [
            f"{answers[key]['answers']} (≤ {answers[key]['bound']})"
            for key in (("paper", n, True), ("paper", n, False), ("anonymous", n, False))
        ]
        interval = f"{one['advantage']:.3f} [{one['ci_low']:.3f}, {one['ci_high']:.3f}]"
        table.add_row(str(n), *cells, f"{interval} (≤ {one['bound']:.3f})")
    return table
