"""`safekv bench tree`: the prefix tree beside SGLang's trees and vLLM's hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps


@click.command()
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=PYTHON",
    help="A peer (sglang, vllm) and the Python of the environment it is installed in.",
)
@click.option("--quick", is_flag=True, help="A small plan: shows that everything works.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def tree(peers: tuple[str, ...], quick: bool, as_json: bool, out: Path | None) -> None:
    """The prefix tree against its peers, interleaved, each in a process of its own.

    A peer that is not given, does not start or gets lost is reported, and the rest goes on.
    Ratios are safekv / peer: below 1, safekv is faster. Exit status: 0 measured, 1 safekv's own
    worker failed, 2 wrong usage, 130 interrupted.
    """
    from safekv.bench import tree as measured
    from safekv.bench.record import environment
    from safekv.bench.tree_workloads import TreePlan, quick_plan

    pythons = _pythons(peers, list(measured.PEERS))
    before = environment()
    with steps("safekv bench tree") as progress:
        result = measured.run(quick_plan() if quick else TreePlan(), pythons, progress)
    record = {"benchmark": "tree", "quick": quick, **result}
    record["environment"] = {**environment(), "load_average_before": before["load_average"]}
    publish(record, _show, as_json=as_json, out=out)


def _pythons(peers: tuple[str, ...], known: list[str]) -> dict[str, str]:
    """The interpreter of each peer. Raises `click.BadParameter` for what names none."""
    found: dict[str, str] = {}
    for peer in peers:
        name, equals, python = peer.partition("=")
        if name not in known or not equals or not python:
            raise click.BadParameter(
                f"{peer!r} is not NAME=PYTHON with a NAME of {', '.join(known)}",
                param_hint="--peer",
            )
        found[name] = python
    return found


def _show(record: dict[str, Any]) -> None:
    console = Console()
    console.print(_ops_table(record))
    console.print(_curve_table(record))
    for row in record["memory"]:
        console.print(
            f"memory ({row['how']}): {row['overhead_bytes_per_node']} bytes a node beyond tokens "
            f"and block ids, {row['nodes']} nodes",
            highlight=False,
        )
    for name, peer in record["peers"].items():
        if peer["status"] != "measured":
            told = peer.get("hint", peer.get("why", ""))
            console.print(f"{name}: {peer['status']}; {told}", highlight=False)


def _ops_table(record: dict[str, Any]) -> Table:
    names = [name for name, peer in record["peers"].items() if name != "safekv" and "kind" in peer]
    table = Table(title="median µs a call (p99); peers: × of safekv's median")
    for heading in ("case", "op", "tokens", "page", "gc", "safekv"):
        table.add_column(heading)
    for name in names:
        table.add_column(name, justify="right")
    for row in record["ops"]:
        table.add_row(*_cells(row), *(_peer_cell(row, name) for name in names))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    case = row["case"] + (" salted" if row["salt"] else "")
    figures = f"{row['median_us']:.1f} ({row['p99_us']:.1f})"
    gc = "on" if row["gc"] else "off"
    return [case, row["op"], str(row["tokens"]), str(row["page_size"]), gc, figures]


def _peer_cell(row: dict[str, Any], name: str) -> str:
    peer = row["peers"].get(name)
    if peer is None:
        return "-"
    return f"{peer['median_us']:.1f} ({1 / peer['ratio']['value']:.1f}×)"


def _curve_table(record: dict[str, Any]) -> Table:
    table = Table(title="safekv alone as the tree grows, garbage collection on")
    for heading in ("nodes", "op", "median µs", "p99", "max", "p99 / median"):
        table.add_column(heading, justify="right")
    for row in record["curve"]:
        figures = (row["median_us"], row["p99_us"], row["max_us"], row["p99_over_median"])
        table.add_row(str(row["nodes"]), row["op"], *(f"{value:.1f}" for value in figures))
    return table
