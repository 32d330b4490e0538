"""`safekv audit steal`: how much of a planted prompt can another key read?"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.audit_keys import KEY_HELP, read_key, require_plain
from safekv.cli.errors import ExitCode
from safekv.cli.measuring import steps
from safekv.errors import ConfigError

if TYPE_CHECKING:
    from safekv.audit.endpoint.canary import Order
    from safekv.audit.endpoint.steal import Loot, StealPlan, Theft

STATUS = {
    "recovered": ExitCode.FAILED,
    "nothing": ExitCode.OK,
    "inconclusive": ExitCode.INCONCLUSIVE,
}
CONTENTS = ("letters", "template", "prose", "canary-personal", "canary-key", "internal")


@click.command()
@click.argument("url")
@click.option("--key", metavar="WHERE", required=True, help=f"The key that steals: {KEY_HELP}")
@click.option("--other-key", metavar="WHERE", required=True, help="The key that sends the prompt.")
@click.option(
    "--i-am-authorised", "authorised", is_flag=True, help="You may test this endpoint. Required."
)
@click.option("--allow-host", multiple=True, help="A host you may test; loopback always is.")
@click.option(
    "--channel",
    type=click.Choice(["ttft", "served-order"]),
    default="ttft",
    show_default=True,
    help="What the thief looks at.",
)
@click.option(
    "--content",
    type=click.Choice(CONTENTS),
    default="canary-personal",
    show_default=True,
    help="How the planted prompt begins.",
)
@click.option("--model", help="The model to ask for.  [default: the first one listed]")
@click.option(
    "--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True
)
@click.option("--words", default=5, show_default=True, help="Words to find.")
@click.option("--candidates", default=16, show_default=True, help="What each may be.")
@click.option("--copies", default=4, show_default=True, help="Copies planted; all but one vote.")
@click.option("--after-tokens", default=80, show_default=True, help="Known text behind each word.")
@click.option("--flush", default=15, show_default=True, help="With one copy: prompts that flush.")
@click.option(
    "--prior", type=click.Path(path_type=Path), help="A causal model: likely words first."
)
@click.option("--settle", default=3.0, show_default=True, help="Seconds after planting.")
@click.option("--rate", default=2.0, show_default=True, help="Requests a second and key; 0: any.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for one request.")
@click.option("--alpha", default=0.01, show_default=True, help="Chance to call luck a theft.")
@click.option("--price", type=float, help="Price of a million prompt tokens, to tell the cost.")
@click.option("--seed", default=0, show_default=True, help="Prompts and words.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Authorities, as PEM.")
@click.option("--show", is_flag=True, help="Also show the planted words beside the guesses.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
def steal(url: str, **options: Any) -> int:
    """Plant a made-up prompt at URL with one key, and read it word by word with another.

    Looks for that prompt only, first from its own cache (the control), then from the other
    key's. Only for endpoints that you may test.

    Exit status: 0 nothing recovered beyond chance, 1 recovered, 2 wrong usage or a refused key,
    3 inconclusive, 130 interrupted.
    """
    require_plain(url)
    plan = _plan(options)
    if options["dry_run"]:
        _show_plan(plan, as_json=options["as_json"])
        return ExitCode.OK
    _require_allowed(url, options)
    theft = _run(url, plan, options)
    record = _record(url, plan, theft, options)
    if options["as_json"]:
        click.echo(json.dumps(record))
    else:
        _show(record)
    return STATUS[theft.verdict.value]


def _require_allowed(url: str, options: dict[str, Any]) -> None:
    host = urlsplit(url).hostname or ""
    if not options["authorised"]:
        raise click.UsageError("this attacks a server: say --i-am-authorised if you may test it")
    if host not in options["allow_host"] and not _is_loopback(host):
        raise ConfigError(
            f"host {host!r} is not on the list of hosts to test",
            f"if you may test it, add --allow-host {host}",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plan(options: dict[str, Any]) -> StealPlan:
    from safekv.audit.endpoint.observation import Content
    from safekv.audit.endpoint.steal import Road, StealPlan
    from safekv.audit.endpoint.wire import Api

    return StealPlan(
        road=Road(options["channel"]),
        content=Content(options["content"]),
        gaps=options["words"],
        candidates=options["candidates"],
        copies=options["copies"],
        after_tokens=options["after_tokens"],
        flush=options["flush"],
        settle_s=options["settle"],
        rate_per_s=options["rate"],
        timeout_s=options["timeout"],
        api=Api(options["api"]),
        alpha=options["alpha"],
        seed=options["seed"],
    )


def _run(url: str, plan: StealPlan, options: dict[str, Any]) -> Theft:
    from safekv.audit.endpoint.line import Place
    from safekv.audit.endpoint.preflight import find_model
    from safekv.audit.endpoint.steal import Thief

    own = read_key(options["key"], "--key")
    other = read_key(options["other_key"], "--other-key")
    if own == other:
        raise ConfigError("both keys are the same key", "a theft needs keys of two tenants")
    model = options["model"] or ""
    place = Place(url, model, 1, plan.timeout_s, options["ca"])
    if not model:
        place = Place(url, find_model(place, own), 1, plan.timeout_s, options["ca"])
    with steps("safekv audit steal") as progress:
        return Thief(place, own, other, plan, _order(options["prior"]), progress).run()


def _order(path: Path | None) -> Order:
    from safekv.audit.endpoint.prior import LocalModel, unordered

    return unordered if path is None else LocalModel(path)


def _show_plan(plan: StealPlan, *, as_json: bool) -> None:
    from safekv.audit.endpoint.steal import example

    shown = {
        "requests_at_most": plan.requests,
        "seconds_at_least": round(plan.requests * plan.interval_s),
        "example_prompt": example(plan),
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        click.echo(f"{name.replace('_', ' ')}: {value}")


def _record(url: str, plan: StealPlan, theft: Theft, options: dict[str, Any]) -> dict[str, Any]:
    from safekv.bench.record import environment

    circumstances = dict(theft.environment)
    if options["price"] is not None:
        tokens = circumstances["prompt_tokens_sent"]
        circumstances["cost"] = round(options["price"] * tokens / 1e6, 4)
    return {
        "verdict": theft.verdict.value,
        "reason": theft.reason,
        "channel": plan.road.value,
        "words": plan.gaps,
        "candidates": plan.candidates,
        "target": _loot(theft.target, show=options["show"]),
        "control": _loot(theft.control, show=options["show"]),
        "environment": {"endpoint": url, **circumstances, "auditor": environment()},
    }


def _loot(loot: Loot | None, *, show: bool) -> dict[str, Any] | None:
    if loot is None:
        return None
    told = asdict(loot)
    truth, guess = told.pop("truth"), told.pop("guess")
    told["seconds"] = round(told["seconds"], 1)
    told["p"] = float(f"{told['p']:.3g}")
    return told | ({"planted": truth, "read": guess} if show else {})


def _show(record: dict[str, Any]) -> None:
    table = Table(title=f"what another key read, by {record['channel']}")
    for heading in ("from", "words", "before a mistake", "requests", "seconds", "chance"):
        table.add_column(heading)
    for name, loot in (("its own cache", record["control"]), ("the other", record["target"])):
        if loot is not None:
            of = f"{loot['right']} of {record['words']}"
            numbers = (loot["leading"], loot["requests"], loot["seconds"], loot["p"])
            table.add_row(name, of, *map(str, numbers))
    console = Console()
    console.print(table)
    for name in ("control", "target"):
        if record[name] and "planted" in record[name]:
            planted, read = (" ".join(record[name][what]) for what in ("planted", "read"))
            console.print(f"{name}: planted {planted!r}, read {read!r}", highlight=False)
    console.print(f"{record['verdict']}: {record['reason']}", highlight=False, soft_wrap=True)
