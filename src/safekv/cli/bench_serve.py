"""`safekv bench serve`: latency and throughput over HTTP, mode beside mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import publish, steps

WORKLOADS = ("system", "chat", "documents", "agent", "control")
MODES = ("stock", "global", "isolated", "selective")


@click.command()
@click.option("--engine", default="hf", show_default=True, type=click.Choice(["hf", "vllm"]))
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option(
    "--workload", "workloads", multiple=True, help=f"One of {', '.join(WORKLOADS)}; all of them."
)
@click.option("--mode", "modes", multiple=True, help=f"One of {', '.join(MODES)}; all of them.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--tenants", type=click.IntRange(1), help="Instead of the workload's own.")
@click.option("--turns", type=click.IntRange(1), help="Requests of each tenant.")
@click.option("--common", "common_words", type=click.IntRange(1), help="Words in common.")
@click.option("--answer", "answer_tokens", type=click.IntRange(2), help="Tokens of an answer.")
@click.option("--rate", type=float, help="Requests a second, on average.")
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Take the gaps between requests from it."
)
@click.option("--slo", "slo_s", default=2.0, show_default=True, help="TTFT in time, in seconds.")
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    default=["on"],
    show_default=True,
    type=click.Choice(["on", "off", "saturated", "dead"]),
    help="In selective; given several times, all take turns. off clears everything unseen.",
)
@click.option("--threads", default=0, show_default=True, help="CPU threads; 0: torch's choice.")
@click.option("--cold", is_flag=True, help="Send nothing before the measurement.")
@click.option("--no-burst", is_flag=True, help="Leave out the phase that measures throughput.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def serve(
    engine: str,
    model: str,
    workloads: tuple[str, ...],
    modes: tuple[str, ...],
    trace: Path | None,
    no_burst: bool,
    threads: int,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Serve a model in one mode after another, and load each over HTTP from this process.

    Requests are sent at times fixed in advance (Poisson, or the gaps of a trace), and latency
    counts from these. Every seed sends the same requests at the same times in every mode: `stock`
    (transformers' own cache), `global` (safekv, unsafe-global), `isolated` and `selective`. First
    at a rate, for latencies; then all at once, for throughput.

    Exit status: 0 measured, 1 the server was lost, 2 wrong option or model, 130 interrupted. What
    was finished is printed in any case, marked partial.
    """
    from safekv.bench.record import environment
    from safekv.bench.serving.engines import ENGINES
    from safekv.bench.serving.plan import PHASES, ServePlan
    from safekv.bench.serving.play import run

    plan = ServePlan(
        workloads=workloads or WORKLOADS,
        modes=modes or MODES,
        times_s=_times(trace),
        phases=PHASES[:1] if no_burst else PHASES,
        **options,
    )
    choice = choose_model(engine, model)
    with (
        steps("safekv bench serve") as report,
        ENGINES[engine](choice, {"threads": threads}) as host,
    ):
        result = run(host, plan, report)
    record = {"benchmark": "serve", "engine": engine, "model_name": model, **result}
    record["environment"] = environment()
    publish(record, _show, as_json=as_json, out=out)
    if result["partial"]:
        raise SystemExit(130 if result["stopped"] == "interrupted" else 1)


def choose_model(engine: str, model: str) -> Any:
    """The model that `--model` names; fetched when it is a known one. `random:SHAPE` has random
    weights and the default model's tokenizer."""
    from safekv.bench.serving.engines import ModelChoice
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import DEFAULT_MODEL, resolve_model

    if engine == "vllm":
        return ModelChoice(source=model, local=False)
    shape = model.removeprefix("random:") if model.startswith("random:") else None
    name = DEFAULT_MODEL if shape is not None else model
    with model_progress(name) as progress:
        source = resolve_model(name, progress=progress)
    return ModelChoice(source=str(source), local=isinstance(source, Path), shape=shape)


def _times(trace: Path | None) -> tuple[float, ...]:
    if trace is None:
        return ()
    from safekv.bench.traces import read_trace

    return tuple(request.time_s for request in read_trace(trace).requests)


def _show(record: dict[str, Any]) -> None:
    console = Console()
    for name, modes in record["workloads"].items():
        console.print(_table(name, modes))
    for name, rows in record["headlines"].items():
        for key, found in rows.items():
            if found is not None:
                console.print(f"{name}: {key} {_interval(found)}")
    for bar in record["bars"]:
        limit = f"at most {bar['most']}" if "most" in bar else f"at least {bar['least']}"
        console.print(f"{bar['bar']}: {_interval(bar)}, {limit}: {bar['verdict']}")
    if record["partial"]:
        console.print(f"partial: {record['stopped']}")


def _interval(found: dict[str, Any]) -> str:
    if "low" not in found:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _table(name: str, modes: dict[str, Any]) -> Table:
    table = Table(title=f"workload {name}")
    headings = (
        *("mode", "TTFT first turn p50 (s)", "TTFT p50 (s)", "p95 (s)", "TPOT p50 (s)"),
        *("tok/s at once", "hit rate", "KV (MiB)", "our CPU", "failed"),
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for mode, row in modes.items():
        first, whole, tpot = (row[key] or {} for key in ("ttft_first_turn_s", "ttft_s", "tpot_s"))
        table.add_row(
            mode,
            _number(first.get("p50"), 3),
            _number(whole.get("p50"), 3),
            _number(whole.get("p95"), 3),
            _number(tpot.get("p50"), 4),
            _number(row["throughput_tok_s"], 0),
            _number(row["hit_rate"], 3),
            _number(row["kv_bytes"] and row["kv_bytes"] / 2**20, 0),
            "-" if row["own_cpu_share"] is None else f"{row['own_cpu_share']:.2%}",
            str(row["failed"]),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
