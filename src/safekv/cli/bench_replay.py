"""`safekv bench replay`: what sharing is worth on a trace, and what it shows, policy by policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.bench.policies import POLICIES
from safekv.bench.tenancy import Bound
from safekv.bench.traces import Trace
from safekv.cli.measuring import publish, steps
from safekv.errors import ConfigError

COLUMNS = {
    "hit_rate": "hit rate",
    "first_turn_hit_rate": "first turns",
    "gap_recovered": "of the gap",
    "duplicate_kv_ratio": "copies",
    "attacker_advantage": "exposed",
    "attacker_advantage_if_missed": "if missed",
    "seconds": "seconds",
}


@click.command()
@click.option(
    "--trace",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to replay; or synthetic:documents, synthetic:system, synthetic:agents,"
    " made:application, made:documents.",
)
@click.option("--tenants", default=100, show_default=True, help="Where the trace names none.")
@click.option(
    "--bound",
    type=click.Choice([bound.value for bound in Bound]),
    default=Bound.STRICT.value,
    show_default=True,
    help="How conversations are told apart where the trace names none.",
)
@click.option("--sensitive", default=0.1, show_default=True, help="Share of texts that are secret.")
@click.option("--recall", default=1.0, show_default=True, help="Share of these that is detected.")
@click.option(
    "--false-flags", default=0.0, show_default=True, help="Share of the others flagged as well."
)
@click.option(
    "--by-detector", is_flag=True, help="Let the rules judge the texts of a trace that has them."
)
@click.option("--budget", default="inf", show_default=True, help="Memory, share of all blocks.")
@click.option("--shared-share", type=float, help="The shared pool's part; as safekv divides it.")
@click.option("--overcommit", default=1.0, show_default=True, help="Times its quota, per tenant.")
@click.option(
    "--quota-part", default=1.0, show_default=True, help="Of its equal share, what is guaranteed."
)
@click.option("--epoch", "epoch_s", default=10.0, show_default=True, help="Seconds of the trace.")
@click.option("--policy", "policies", multiple=True, help=f"One of {', '.join(POLICIES)}; all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def replay(
    path: Path,
    tenants: int,
    bound: str,
    sensitive: float,
    recall: float,
    false_flags: float,
    by_detector: bool,
    budget: str,
    shared_share: float | None,
    overcommit: float,
    quota_part: float,
    epoch_s: float,
    policies: tuple[str, ...],
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Replay a trace in logical time: no model, no clock of the machine.

    Reads Mooncake, Qwen-Bailian and labelled hash traces, kv-cache-tester, and JSON lines with
    `text`, plain or gzipped; or makes up a trace of one of three shapes. `isolated` and `global`
    are stock engines (one LRU, with and without a salt per tenant); the gap is measured between
    them. `exposed` is the share of secret prompts that a stranger could confirm by sending them;
    `if missed` bounds the same for a secret that the detector does not see.

    Exit status: 0 replayed, 2 wrong option or trace, 130 interrupted (what was finished is
    printed, marked partial).
    """
    from safekv.bench.record import environment
    from safekv.bench.replay import ReplayPlan, run
    from safekv.bench.workload import Dealing

    dealing = Dealing(
        tenants=tenants,
        bound=Bound(bound),
        sensitive=sensitive,
        recall=recall,
        false_flags=false_flags,
        seed=seed,
    )
    plan = ReplayPlan(
        dealing=dealing,
        policies=policies or tuple(POLICIES),
        budget=_share(budget),
        shared_share=shared_share,
        overcommit=overcommit,
        quota_part=quota_part,
        epoch_s=epoch_s,
    )
    with steps("safekv bench replay") as report:
        result = run(_trace(path, tenants, by_detector), plan, report)
    record = {"benchmark": "replay", **result, "environment": environment()}
    publish(record, lambda it: Console().print(_table(it)), as_json=as_json, out=out)
    if result["partial"]:
        raise SystemExit(130)


def _trace(path: Path, tenants: int, by_detector: bool) -> Trace:
    """The trace at `path`, its texts judged where asked; or a made-up one."""
    from safekv.bench.judging import rule_judge
    from safekv.bench.traces import read_trace, synthetic

    kind, colon, shape = str(path).partition(":")
    if colon and kind == "synthetic":
        if by_detector:
            raise ConfigError(f"{path} has no text to judge", "leave --by-detector out")
        return synthetic(shape, tenants)
    return read_trace(path, judge=rule_judge() if by_detector else None)


def _share(budget: str) -> float | None:
    if budget == "inf":
        return None
    try:
        return float(budget)
    except ValueError:
        raise ConfigError(f"budget is {budget}", "use a share above 0, or inf") from None


def _table(record: dict[str, Any]) -> Table:
    memory = record["capacity_blocks"] or "unlimited"
    table = Table(
        title=f"{record['trace']}: {record['requests']} requests of {record['tenants']} tenants,"
        f" memory {memory} of {record['distinct_blocks']} blocks"
    )
    table.add_column("policy", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for name, row in record["policies"].items():
        if "error" in row:
            table.add_row(name, row["error"])
        else:
            table.add_row(name, *(_cell(key, row[key]) for key in COLUMNS))
    return table


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if key in ("seconds", "duplicate_kv_ratio") else f"{value:.1%}"
