"""`safekv bench tiers`: what a hit in each tier is worth."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def tiers(model: str, rounds: int, as_json: bool, out: Path | None) -> None:
    """Time to first token of a 513-token prompt: computed, on the device, in host memory, on disk.

    Interleaved, in one engine. Files are sealed in the directory for temporary files, most of the
    time still in the system's page cache. Exit status: 0 measured, 2 bad model.
    """
    from safekv.bench import tiers as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model
    from safekv.vault import Vault

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    plan = measured.TiersPlan(rounds=rounds)
    with steps("safekv bench tiers") as progress, TemporaryDirectory() as folder:
        disk = (Path(folder), Vault.ephemeral())
        run = measured.run(model_id(model), source, plan, disk=disk, progress=progress)
        result = asyncio.run(run)
    record = {"benchmark": "tiers", "model": model_id(model), **result}
    record["environment"] = environment()
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)


def _table(record: dict[str, Any]) -> Table:
    table = Table(title=f"{record['model']}: time to first token")
    for heading in ("found", "median (s)", "ratio to a miss [95 % interval]"):
        table.add_column(heading, justify="left" if heading == "found" else "right")
    for name, seconds in record["median_ttft_s"].items():
        ratio = record["ratio_to_miss"][name]
        shown = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        table.add_row(name, f"{seconds:.3f}", shown)
    return table
