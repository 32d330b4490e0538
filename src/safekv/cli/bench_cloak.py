"""`safekv bench cloak`: sealing and obfuscating beside the bare ciphers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps


@click.command()
@click.option("--quick", is_flag=True, help="A small plan: shows that everything works.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def cloak(quick: bool, as_json: bool, out: Path | None) -> None:
    """Sealing (the vault) and obfuscating (the stream) in GB/s, one thread, interleaved.

    Ratios are our speed / the bare cipher's: the bare cipher has one key and repeats one nonce,
    so nothing that is safe reaches 1. Obfuscation has no integrity and is no substitute for
    sealing. Exit status: 0 measured, whether or not the bars are met.
    """
    from safekv.bench import cloak as measured
    from safekv.bench.record import environment

    plan = measured.CloakPlan(budget_bytes=1 << 21, rounds=(3, 30)) if quick else None
    before = environment()
    with steps("safekv bench cloak") as report:
        result = measured.run(plan or measured.CloakPlan(), report)
    record = {"benchmark": "cloak", "quick": quick, **result}
    record["environment"] = {**environment(), "load_average_before": before["load_average"]}
    publish(record, _show, as_json=as_json, out=out)


def _show(record: dict[str, Any]) -> None:
    console = Console()
    table = Table(title="GB/s, median, and share of the bare cipher's speed", box=SIMPLE)
    sizes = sorted({row["size_bytes"] for row in record["rows"]})
    table.add_column("operation", no_wrap=True)
    for size in sizes:
        table.add_column(_size(size), justify="right")
    cells: dict[str, dict[int, str]] = {}
    for row in record["rows"]:
        share = f"\n{row['ratio']['value']:.0%}" if "ratio" in row else ""
        cells.setdefault(row["what"], {})[row["size_bytes"]] = f"{row['gb_per_s']:.2f}{share}"
    for what, by_size in cells.items():
        table.add_row(what, *(by_size.get(size, "-") for size in sizes))
    console.print(table)
    for bar in record["bars"]:
        met = "met" if bar["met"] else "not met"
        told = f"{bar['what']} >= {bar['least']:.0%} from {_size(bar['from_bytes'])}: {met}"
        console.print(f"{told}, worst {bar['worst_ratio']:.1%}", highlight=False)
    for missing in record["missing"]:
        console.print(f"missing: {missing}", highlight=False)


def _size(size_bytes: int) -> str:
    kib = size_bytes // 1024
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
