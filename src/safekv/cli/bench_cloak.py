"""`safekv bench cloak`: sealing and obfuscating beside the bare ciphers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import Report, publish, steps


@click.command()
@click.option("--quick", is_flag=True, help="A small plan: shows that everything works.")
@click.option("--engine", is_flag=True, help="Also what it costs the embedded engine. Minutes.")
@click.option("--gpu", is_flag=True, help="The Triton kernels on a GPU, and nothing else.")
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="For --engine.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="The same.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def cloak(
    quick: bool,
    engine: bool,
    gpu: bool,
    model: str,
    rounds: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Sealing (the vault) and obfuscating (stream, KV-Cloak) in GB/s, one thread, interleaved.

    With --engine also time to first token and throughput of the embedded engine with its blocks
    obfuscated, and with a vaulted disk, in percent of the same without, interleaved.

    Ratios are our speed / the bare cipher's: the bare cipher has one key and repeats one nonce,
    so nothing that is safe reaches 1. Obfuscation has no integrity and is no substitute for
    sealing. With --gpu the shares are of a copy on the device, or of one to the host, and what a
    fused model's decoding step takes is of the plain one's.

    Exit status: 0 measured, whether or not the bars are met, 2 wrong usage or no GPU.
    """
    if gpu:
        if engine:
            raise click.UsageError("--gpu measures nothing else: leave --engine out")
        publish(_gpu(quick), _show_gpu, as_json=as_json, out=out)
        return
    from safekv.bench import cloak as measured
    from safekv.bench.cloak_matrices import MatricesPlan, judged
    from safekv.bench.cloak_matrices import run as matrices
    from safekv.bench.record import environment

    plan = measured.CloakPlan(budget_bytes=1 << 21, rounds=(3, 30)) if quick else None
    before = environment()
    with steps("safekv bench cloak") as report:
        result = measured.run(plan or measured.CloakPlan(), report)
        small = MatricesPlan(rounds=(3, 3), block_tokens=(16,), sizes_bytes=(1 << 18,))
        rows = matrices(small if quick else MatricesPlan(), report)
        result["rows"] += rows
        result["bars"] += judged(rows)
        if engine:
            result["engine"] = _engine(model, rounds, report)
    record = {"benchmark": "cloak", "quick": quick, **result}
    record["environment"] = {**environment(), "load_average_before": before["load_average"]}
    publish(record, _show, as_json=as_json, out=out)


def _gpu(quick: bool) -> dict[str, Any]:
    """The kernels and a decoding step, on the GPU."""
    from safekv.bench import cloak_gpu, cloak_gpu_decode
    from safekv.bench.record import environment

    before = environment()
    with steps("safekv bench cloak --gpu") as report:
        plan = cloak_gpu.TINY if quick else cloak_gpu.GpuCloakPlan()
        result = cloak_gpu.run(plan, report)
        decode = cloak_gpu_decode.TINY if quick else cloak_gpu_decode.DecodePlan()
        result["decode"] = cloak_gpu_decode.run(decode, "cuda")
    record = {"benchmark": "cloak-gpu", "quick": quick, **result}
    record["environment"] = {**environment(), "load_average_before": before["load_average"]}
    return record


def _show_gpu(record: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"Triton on {record['device']}", box=SIMPLE)
    for heading in ("operation", "dtype", "block", "head", "GB/s", "of a copy", "x to host"):
        table.add_column(heading, justify="right")
    for row in record["rows"]:
        shares = (row.get(name) for name in ("share_of_copy", "times_to_host"))
        told = ("-" if one is None else f"{one['value']:.2f}" for one in shares)
        block = row["block_size"] or row["block_bytes"]
        shape = (row["dtype"], str(block), str(row["head_dim"] or "-"))
        table.add_row(row["what"], *shape, f"{row['gb_per_s']:.0f}", *told)
    console.print(table)
    for bar in record["bars"]:
        met = "met" if bar["met"] else "not met"
        console.print(f"{bar['what']} >= {bar['least']}: {met}, worst {bar['worst']:.2f}")
    ratio = record["decode"]["fused_over_plain"]
    console.print(f"decoding step, M fused / plain: {ratio['value']:.3f}")


def _engine(model: str, rounds: int, report: Report) -> dict[str, Any]:
    from safekv.bench.cloak_engine import CloakEnginePlan, run
    from safekv.engines.hf.store import model_id, resolve_model
    from safekv.vault import Vault

    source = resolve_model(model)
    with TemporaryDirectory() as folder:
        disk = (Path(folder), Vault.ephemeral())
        plan = CloakEnginePlan(rounds=rounds)
        return asyncio.run(run(model_id(model), source, plan, disk, report))


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
    if "engine" in record:
        console.print(_percent(record["engine"]))
    for missing in record["missing"]:
        console.print(f"missing: {missing}", highlight=False)


def _matrices(rows: list[dict[str, Any]]) -> Table:
    """At 256 KiB, or the size next to it; the record has all."""
    table = Table(title="KV-Cloak's matrices in torch, M fused, one thread, 256 KiB", box=SIMPLE)
    headings = ("block", "head", "dtype", "obf. GB/s", "deobf. GB/s", "error", "no beacon")
    for heading in headings:
        table.add_column(heading, justify="right")
    ours = [row for row in rows if "peer" in row and row["size_bytes"] == 1 << 18]
    for one, two in zip(ours[::2], ours[1::2], strict=True):
        shape = (str(one["block_size"]), str(one["head_dim"]), one["dtype"])
        rates = (f"{row['gb_per_s']:.2f} (x{row['ratio']['value']:.1f})" for row in (one, two))
        errors = (one[f"round_trip_relative_error{which}"] for which in ("", "_without_beacon"))
        table.add_row(*shape, *rates, *(f"{error:.1e}" for error in errors))
    return table


def _percent(engine: dict[str, Any]) -> Table:
    table = Table(title="Embedded engine, percent of the plain one [95 % interval]", box=SIMPLE)
    for heading in ("side", "TTFT, miss", "TTFT, hit", "tokens/s"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for side, percents in engine["percent_of_plain"].items():
        cells = (
            f"{one['value']:.1f} [{one['low']:.1f}, {one['high']:.1f}]" for one in percents.values()
        )
        table.add_row(side, *cells)
    return table


def _size(size_bytes: int) -> str:
    kib = size_bytes // 1024
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
