"""`safekv bench compare`: is a later record worse than an earlier one?"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--tolerance", default=0.02, show_default=True, help="Share that is never flagged.")
@click.option("--all", "show_all", is_flag=True, help="Show what did not change as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def compare(before: Path, after: Path, tolerance: float, show_all: bool, as_json: bool) -> None:
    """Flag what got worse between two files, or folders, of records by more than noise.

    Of each setting the last record of either side counts. Compared are ratios to peers, hit rates
    and shares, never seconds: those depend on the machine.

    Exit status: 0 nothing got worse, 1 something did, 2 a file that cannot be read, 3 the two have
    no setting in common.
    """
    from safekv.bench.compare import compare as compared
    from safekv.bench.records import read

    changes = compared(read(before), read(after), tolerance)
    worse = [change for change in changes if change["verdict"] == "worse"]
    if as_json:
        click.echo(json.dumps({"compared": len(changes), "worse": len(worse), "changes": changes}))
    elif not changes:
        click.echo("nothing to compare: no setting is in both", err=True)
    else:
        table = Table(title=f"{len(changes)} numbers compared, {len(worse)} worse")
        for heading in ("setting", "what", "before", "after", "change", "verdict"):
            table.add_column(heading)
        for change in changes:
            if show_all or change["verdict"] != "same":
                numbers = (f"{change[key]:.4g}" for key in ("before", "after"))
                share = f"{change['change']:+.1%}"
                table.add_row(change["setting"], change["name"], *numbers, share, change["verdict"])
        Console().print(table)
    if not changes:
        raise SystemExit(3)
    if worse:
        raise SystemExit(1)
