"""`safekv audit URL`: does this endpoint tell one tenant what another one sent?"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.audit_keys import KEY_HELP, read_key, require_plain
from safekv.cli.errors import ExitCode
from safekv.cli.measuring import steps
from safekv.errors import ConfigError

if TYPE_CHECKING:
    from safekv.audit.endpoint.plan import Keys, Plan
    from safekv.audit.endpoint.session import Outcome

CONTENTS = ("letters", "template", "prose", "canary-personal", "canary-key", "internal")
STATUS = {
    "leak": ExitCode.FAILED,
    "no-leak": ExitCode.OK,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


@click.command(name="endpoint")
@click.argument("url", required=False)
@click.option("--key", metavar="WHERE", help=f"Your own key, which probes: {KEY_HELP}")
@click.option("--other-key", metavar="WHERE", help=f"Another tenant's key: {KEY_HELP}")
@click.option("--org-key", metavar="WHERE", help="A second key of your own organisation.")
@click.option("--anonymous", is_flag=True, help="Also probe without a key.")
@click.option("--model", help="The model to ask for.  [default: the first one listed]")
@click.option(
    "--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True
)
@click.option(
    "--content",
    default=",".join(CONTENTS),
    show_default=True,
    help="Content classes, separated by commas.",
)
@click.option("--may-share", default="", help="Contents meant to be shared: measured, not judged.")
@click.option("--blocks", default=60, show_default=True, help="Pairs for each content and scope.")
@click.option(
    "--crowd",
    default=8,
    show_default=True,
    help="Requests sent at once, to see their order; 0: none.",
)
@click.option("--batch", default=5, show_default=True, help="Rounds primed together.")
@click.option("--prompt-tokens", default=256, show_default=True, help="Length of a prompt.")
@click.option("--max-tokens", default=4, show_default=True, help="Length of an answer.")
@click.option("--settle", default=3.0, show_default=True, help="Seconds between prime and probe.")
@click.option("--rate", default=5.0, show_default=True, help="Requests a second and key; 0: any.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for one request.")
@click.option("--alpha", default=0.01, show_default=True, help="Chance of a false alarm at all.")
@click.option("--largest-auc", default=0.8, show_default=True, help="What no leak may exceed.")
@click.option("--looks", default=3, show_default=True, help="How often to judge on the way.")
@click.option("--seed", default=0, show_default=True, help="Prompts and orders.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Authorities, as PEM.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page here.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.json B.json",
    help="Compare two results instead.",
)
def endpoint(url: str | None, compare: tuple[Path, Path] | None, **options: Any) -> int:
    """Audit the OpenAI-compatible endpoint at URL, such as http://127.0.0.1:8000/v1.

    Needs keys of two tenants and an endpoint you may test, with little other traffic. Sends
    made-up prompts only, one at a time. Keys are read from files or the environment and are
    never shown.

    Exit status: 0 no leak found, 1 leak, 2 wrong usage or a refused key, 3 inconclusive,
    130 interrupted.
    """
    if compare is not None:
        return _compare(*compare, as_json=options["as_json"])
    if url is None:
        raise click.UsageError("an address is missing, such as http://127.0.0.1:8000/v1")
    require_plain(url)
    plan, keys = _plan(options), _keys(options)
    if options["dry_run"]:
        _show_plan(plan, keys, as_json=options["as_json"])
        return ExitCode.OK
    outcome = _audit(url, plan, keys, options)
    _publish(outcome, url, options)
    return STATUS[outcome.verdict.value]


def _plan(options: dict[str, Any]) -> Plan:
    from safekv.audit.endpoint.judge import Rules
    from safekv.audit.endpoint.plan import Plan
    from safekv.audit.endpoint.wire import Api

    rules = Rules(
        alpha=options["alpha"], largest_auc=options["largest_auc"], looks=options["looks"]
    )
    return Plan(
        contents=_contents(options["content"], "--content"),
        shared=frozenset(_contents(options["may_share"], "--may-share")),
        blocks=options["blocks"],
        crowd=options["crowd"],
        batch=options["batch"],
        prompt_tokens=options["prompt_tokens"],
        max_tokens=options["max_tokens"],
        settle_s=options["settle"],
        rate_per_s=options["rate"],
        timeout_s=options["timeout"],
        api=Api(options["api"]),
        seed=options["seed"],
        rules=rules,
    )


def _contents(text: str, option: str) -> tuple[Any, ...]:
    from safekv.audit.endpoint.observation import Content

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CONTENTS:
            raise click.BadParameter(
                f"{name!r} is not one of {', '.join(CONTENTS)}", param_hint=option
            )
    return tuple(Content(name) for name in dict.fromkeys(names))


def _keys(options: dict[str, Any]) -> Keys:
    from safekv.audit.endpoint.plan import Keys

    own = _key(options["key"], "--key")
    if own is None:
        raise click.UsageError("--key is missing: a file that holds your key, or env:NAME")
    keys = Keys(
        own,
        _key(options["other_key"], "--other-key"),
        _key(options["org_key"], "--org-key"),
        options["anonymous"],
    )
    keys.claims()
    return keys


def _key(where: str | None, option: str) -> str | None:
    return None if where is None else read_key(where, option)


def _audit(url: str, plan: Plan, keys: Keys, options: dict[str, Any]) -> Outcome:
    from safekv.audit.endpoint.line import Place
    from safekv.audit.endpoint.preflight import find_model
    from safekv.audit.endpoint.session import Session

    if options["html"] is not None:
        _require_writable(options["html"])
    place = Place(url, options["model"] or "", plan.max_tokens, plan.timeout_s, options["ca"])
    if not place.model:
        place = replace(place, model=find_model(place, keys.own))
    with steps("safekv audit") as progress:
        return Session(place, keys, plan, progress).run()


def _require_writable(path: Path) -> None:
    """Raise `ConfigError` before anything is measured if `path` cannot be written later."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written", "choose another file for --html")


def _show_plan(plan: Plan, keys: Keys, *, as_json: bool) -> None:
    """What would be sent: numbers, and one prompt of each content."""
    from safekv.audit.endpoint.content import Writer

    writer = Writer(plan.seed)
    words = plan.prompt_tokens * 2 // 3
    shown = {
        "requests_at_most": plan.requests(keys.claims()),
        "seconds_at_least": round(plan.requests(keys.claims()) * plan.interval_s / 2),
        "prompt_tokens": plan.prompt_tokens,
        "max_tokens": plan.max_tokens,
        "scopes": [claim.value for claim in keys.claims()],
        "example_prompts": {c.value: writer.write(c, words) for c in plan.contents},
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        if isinstance(value, dict):
            for content, text in value.items():
                click.echo(f"\n{content}:\n  {text}")
        else:
            click.echo(f"{name.replace('_', ' ')}: {value}")


def _publish(outcome: Outcome, url: str, options: dict[str, Any]) -> None:
    from safekv.audit.endpoint.page import page
    from safekv.audit.endpoint.record import to_json
    from safekv.bench.record import environment

    record = to_json(outcome)
    record["environment"] = {"endpoint": url, **record["environment"], "auditor": environment()}
    if options["html"] is not None:
        options["html"].write_text(page(outcome, record), encoding="utf-8")
        click.echo(f"page: {options['html']}", err=True)
    if options["as_json"]:
        click.echo(json.dumps(record))
    else:
        _show(outcome)


def _show(outcome: Outcome) -> None:
    from safekv.audit.endpoint.advice import advice
    from safekv.audit.endpoint.page import verdict_of

    console = Console()
    table = Table(title="can primed prompts be told from fresh ones?")
    for heading in ("scope", "content", "channel", "verdict", "AUC [95 %]", "why"):
        table.add_column(heading, overflow="fold")
    for found in outcome.findings:
        size = found.effect
        ci = f"{size.auc:.2f} [{size.auc_ci[0]:.2f}, {size.auc_ci[1]:.2f}]" if size.auc_ci else "-"
        names = (found.scope.value, found.content.value, found.channel.value)
        table.add_row(*names, verdict_of(found), ci, found.reason)
    console.print(table)
    console.print(f"{outcome.verdict.value}: {outcome.reason}", highlight=False, soft_wrap=True)
    for line in advice(outcome):
        console.print(f"- {line}", highlight=False, soft_wrap=True)


def _compare(before: Path, after: Path, *, as_json: bool) -> int:
    """Exit status: the later result's."""
    from safekv.audit.endpoint.record import compare, load

    compared = compare(load(before), load(after))
    if as_json:
        click.echo(json.dumps(compared))
    else:
        table = Table(
            title=f"before: {compared['verdict_before']}, after: {compared['verdict_after']}"
        )
        for heading in ("scope", "content", "channel", "before", "AUC", "after", "AUC"):
            table.add_column(heading)
        for cell in compared["cells"]:
            row = [cell[name] for name in ("scope", "content", "channel")]
            row += [cell[f"{n}_{w}"] for w in ("before", "after") for n in ("verdict", "auc")]
            table.add_row(*("-" if value is None else str(value) for value in row))
        Console().print(table)
    return STATUS[compared["verdict_after"]]
