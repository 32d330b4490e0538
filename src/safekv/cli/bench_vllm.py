"""`safekv bench vllm`: safekv in vLLM beside stock vLLM."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.measuring import Record, counts, publish, steps
from safekv.errors import ConfigError

PROMPTS = (512, 8192)


@click.command()
@click.option(
    "--part",
    type=click.Choice(["control", "serving"]),
    default="serving",
    show_default=True,
    help="What vLLM's scheduler costs, without a model; or chats, end to end.",
)
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--tenants", default="4,16,64", show_default=True, callback=counts)
@click.option("--system-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--control", default=16, show_default=True, type=click.IntRange(2))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the record to this file.")
def vllm(
    part: str,
    model: str,
    tenants: tuple[int, ...],
    system_tokens: int,
    control: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """First-turn TTFT, chats, throughput and KV memory: stock vLLM, with salts, with safekv.

    Tenants share a long system prompt; in the control nobody shares anything. Three in-process
    engines in turns, float32 on the CPU; run it with the Python that vLLM is installed for. What
    safekv's front adds to a request is measured beside. Takes about ten minutes.

    With `--part control` no model runs: nanoseconds per token that safekv adds to hashing,
    lookup and insertion, beside stock vLLM in turns, and how long a large verdict holds the
    engine's thread up. Takes a few minutes.

    Exit status: 0 measured, 1 an engine died, 2 bad model or option, or vLLM is missing.
    """
    from safekv.bench.record import environment
    from safekv.bench.vllm import serving as measured
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model
    from safekv.engines.vllm.version import require_supported

    version = require_supported()
    if part == "control":
        _control(version, as_json=as_json, out=out)
        return
    plan = measured.ServingPlan(tenants=tenants, system_tokens=system_tokens, control=control)
    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    with steps("safekv bench vllm") as progress:
        result = measured.run(str(source), plan, progress)
    record: Record = {"benchmark": "vllm", "model": model_id(model), **result}
    record["front"] = [_front(measured.front_cost, tokens) for tokens in PROMPTS]
    record["environment"] = {**environment(), "vllm": version}
    publish(record, lambda it: Console().print(_table(it), _bars(it)), as_json=as_json, out=out)


def _control(version: str, *, as_json: bool, out: Path | None) -> None:
    """Measure the control plane, and publish the record."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from safekv.bench.record import environment
    from safekv.bench.vllm.control import ControlPlan, run

    before = environment()
    with steps("safekv bench vllm --part control") as progress:
        result = run(ControlPlan(), progress)
    record: Record = {"benchmark": "vllm", **result}
    record["environment"] = {
        **environment(),
        "vllm": version,
        "load_average_before": before["load_average"],
    }
    publish(record, lambda it: Console().print(_control_table(it)), as_json=as_json, out=out)


CONTROL_COLUMNS = ("hash", "add_request", "lookup_hit", "insert", "record", "computed")


def _control_table(record: Record) -> Table:
    table = Table(title="Added by safekv, in ns per token (CPU time, best of all rounds)")
    for heading in ("block", "tokens", *CONTROL_COLUMNS, "of stock's hash + lookup + insert"):
        table.add_column(heading, justify="right")
    for row in record["rows"]:
        added = row["added_ns_per_token"]
        table.add_row(
            str(row["block_tokens"]),
            f"{row['tokens']:,}",
            *(f"{added[name]:+.2f}" for name in CONTROL_COLUMNS),
            f"{row['added_of_stock']:+.1%}",
        )
    for name, bar in record["bars"].items():
        met = "met" if bar["met"] else "NOT met"
        table.caption = (
            f"{table.caption or ''}{name}: {bar['worst']:.3g} (bar {bar['bar']}, {met})  "
        )
    return table


def _front(measure: Callable[[Callable[[bytes], None], int], Record], tokens: int) -> Record:
    """What the front costs a chat of about `tokens` tokens, its key file on disk."""
    from starlette.types import Message, Receive, Scope, Send

    from safekv.gateway.tenants import TenantStore
    from safekv.gateway.vllm.config import FrontConfig
    from safekv.gateway.vllm.front import Front

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    with TemporaryDirectory() as folder:
        store = TenantStore(Path(folder) / "tenants.json")
        key = store.add("tenant").encode()
        front = Front(
            app,
            tenants=store,
            claim_key=secrets.token_bytes(32),
            max_body_bytes=1 << 24,
            config=FrontConfig(),
        )
        headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + key)]
        path = "/v1/chat/completions"
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers}

        async def send(message: Message) -> None:
            raise ConfigError("the front refused its own benchmark")

        loop = asyncio.new_event_loop()
        try:

            def pass_on(body: bytes) -> None:
                async def receive() -> Message:
                    return {"type": "http.request", "body": body, "more_body": False}

                loop.run_until_complete(front(scope, receive, send))

            return {"prompt_tokens": tokens, **measure(pass_on, tokens)}
        finally:
            loop.close()


def _table(record: Record) -> Table:
    table = Table(title=f"{record['model']}: vLLM with one cache, with a salt per tenant, safekv")
    for heading in ("", "global", "salt", "safekv", "safekv / global [95 %]", "safekv / salt"):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in record["shared"]:
        n = each["tenants"]
        for key, label in (("first_turn", "first turn"), ("later_turns", "later turns")):
            if each[key]:
                _add_ttft(table, f"{n} tenants: {label}, TTFT p50 (s)", each[key])
        rates = each["batches"]["output_tokens_per_s"]
        shown = [f"{rates[kind]:.1f}" for kind in ("global", "salt", "safekv")]
        ratios = [_ratio(each["batches"][key]) for key in ("to_global", "to_salt")]
        table.add_row(f"{n} tenants: output tokens/s at once", *shown, *ratios)
        blocks = each["cached_blocks"]
        shown = [str(blocks[kind]) for kind in ("global", "salt", "safekv")]
        table.add_row(
            f"{n} tenants: KV blocks",
            *shown,
            f"{each['kv_memory_ratio']:.3f}",
            f"{blocks['safekv'] / blocks['salt']:.3f}",
        )
    _add_ttft(table, "nobody shares: TTFT p50 (s)", record["control"])
    return table


def _add_ttft(table: Table, label: str, measured: dict[str, Any]) -> None:
    medians = [f"{measured['ttft_s'][kind]['p50']:.3f}" for kind in ("global", "salt", "safekv")]
    table.add_row(label, *medians, _ratio(measured["to_global"]), _ratio(measured["to_salt"]))


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def _bars(record: Record) -> str:
    lines = [
        f"{name}: {each['worst']:.3f}, at most {each['bar']:.2f}: "
        f"{'met' if each['met'] else 'MISSED'}"
        for name, each in record["bars"].items()
    ]
    lines += [
        f"front, {each['prompt_tokens']} tokens: {each['p50_us']:.0f} µs a request"
        for each in record["front"]
    ]
    return os.linesep.join(lines)
