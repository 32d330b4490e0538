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
    """Sealing (the vault) and obfuscating (stream, KV-Cloak) in GB/s, one thread, interleaved.

    Ratios are our speed / the bare cipher's: the bare cipher has one key and repeats one nonce,
    so nothing that is safe reaches 1. Obfuscation has no integrity and is no substitute for
    sealing. Exit status: 0 measured, whether or not the bars are met.
    """
    from safekv.bench import cloak as measured
    from safekv.bench.cloak_matrices import MatricesPlan
    from safekv.bench.cloak_matrices import run as matrices
    from safekv.bench.record import environment

    plan = measured.CloakPlan(budget_bytes=1 << 21, rounds=(3, 30)) if quick else None
    before = environment()
    with steps("safekv bench cloak") as report:
        result = measured.run(plan or measured.CloakPlan(), report)
        shapes = MatricesPlan(rounds=3, block_tokens=(16,)) if quick else MatricesPlan()
        result["rows"] += matrices(shapes)
    record = {"benchmark": "cloak", "quick": quick, **result}
    record["environment"] = {**environment(), "load_average_before": before["load_average"]}
    publish(record, _show, as_json=as_json, out=out)


def _show(record: dict[str, Any]) -> None:
    console = Console()
    bare = [row for row in record["rows"] if row["block_size"] is None]
    table = Table(title="GB/s, median, and share of the bare cipher's speed", box=SIMPLE)
    sizes = sorted({row["size_bytes"] for row in bare})
    table.add_column("operation", no_wrap=True)
    for size in sizes:
        table.add_column(_size(size), justify="right")
    cells: dict[str, dict[int, str]] = {}
    for row in bare:
        share = f"\n{row['ratio']['value']:.0%}" if "ratio" in row else ""
        cells.setdefault(row["what"], {})[row["size_bytes"]] = f"{row['gb_per_s']:.2f}{share}"
    for what, by_size in cells.items():
        table.add_row(what, *(by_size.get(size, "-") for size in sizes))
    console.print(table)
    console.print(_matrices([row for row in record["rows"] if row["block_size"] is not None]))
    for bar in record["bars"]:
        met = "met" if bar["met"] else "not met"
        told = f"{bar['what']} >= {bar['least']:.0%} from {_size(bar['from_bytes'])}: {met}"
        console.print(f"{told}, worst {bar['worst_ratio']:.1%}", highlight=False)
    for missing in record["missing"]:
        console.print(f"missing: {missing}", highlight=False)


def _matrices(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="KV-Cloak's matrices in torch, M fused, one thread", box=SIMPLE)
    for heading in ("block", "head", "dtype", "obf. GB/s", "deobf. GB/s", "error", "no beacon"):
        table.add_column(heading, justify="right")
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        shape = (str(one["block_size"]), str(one["head_dim"]), one["dtype"])
        rates = (f"{row['gb_per_s']:.2f}" for row in (one, two))
        errors = (one[f"round_trip_relative_error{which}"] for which in ("", "_without_beacon"))
        table.add_row(*shape, *rates, *(f"{error:.1e}" for error in errors))
    return table


def _size(size_bytes: int) -> str:
    kib = size_bytes // 1024
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
