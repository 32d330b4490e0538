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
    type=click.Choice(["all", "serving", "control"]),
    default="all",
    show_default=True,
    help="End to end with a model, or the control plane alone.",
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
    """What safekv adds to vLLM, and what sharing brings there, beside stock vLLM.

    serving: first-turn TTFT, chats, throughput and KV memory, stock with one cache, stock with a
    salt per tenant, and safekv. Tenants share a system prompt of --system-tokens; in the control
    (--control requests) nobody shares anything. In-process engines in turns, float32 on the CPU;
    about a quarter of an hour. What the front adds to a request is measured beside.

    control: what names and verdicts cost per token and call in vLLM's scheduler and block pool,
    without a model; about a minute.

    Run it with the Python that vLLM is installed for. Exit status: 0 measured, 1 an engine died,
    2 bad model or option, or vLLM is missing.
    """
    from safekv.bench.record import environment
    from safekv.engines.vllm.version import require_supported

    version = require_supported()
    record: Record = {"benchmark": "vllm"}
    if part in ("all", "control"):
        record["control"] = _control()
    if part in ("all", "serving"):
        record["serving"] = _serving(model, tenants, system_tokens, control)
    record["environment"] = {**environment(), "vllm": version}
    publish(record, _show, as_json=as_json, out=out)


def _control() -> Record:
    from safekv.bench.vllm import control as measured

    with steps("safekv bench vllm: control plane") as progress:
        return measured.run(measured.ControlPlan(), progress)


def _serving(model: str, tenants: tuple[int, ...], system_tokens: int, control: int) -> Record:
    from safekv.bench.vllm import serving as measured
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model

    plan = measured.ServingPlan(tenants=tenants, system_tokens=system_tokens, control=control)
    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    with steps("safekv bench vllm: serving") as progress:
        result = measured.run(str(source), plan, progress)
    front = [_front(measured.front_cost, tokens) for tokens in PROMPTS]
    return {"model": model_id(model), **result, "front": front}


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


def _show(record: Record) -> None:
    console = Console()
    if "control" in record:
        console.print(_control_table(record["control"]), _bars(record["control"]))
    if "serving" in record:
        console.print(_serving_table(record["serving"]), _bars(record["serving"]))
        for each in record["serving"]["front"]:
            console.print(f"front, {each['prompt_tokens']} tokens: {each['p50_us']:.0f} µs")


def _control_table(record: Record) -> Table:
    table = Table(title="vLLM's control plane: ns per token")
    for heading in ("tokens", "block", "stock hash + hit + insert", "added", "of stock"):
        table.add_column(heading, justify="right")
    for each in record["rows"]:
        stock = sum(each["stock_ns_per_token"][name] for name in ("hash", "lookup_hit", "insert"))
        table.add_row(
            f"{each['tokens']:,}",
            str(each["block_tokens"]),
            f"{stock:.1f}",
            f"{each['added_of_stock'] * stock:.1f}",
            f"{each['added_of_stock']:.1%}",
        )
    return table


def _serving_table(record: Record) -> Table:
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
    return os.linesep.join(
        f"{name}: {each['worst']:.3f}, at most {each['bar']:g}: "
        f"{'met' if each['met'] else 'MISSED'}"
        for name, each in record["bars"].items()
    )
