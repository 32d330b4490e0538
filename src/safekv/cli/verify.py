"""`safekv verify`: does what safekv promises hold on this machine?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from safekv.cli.errors import ExitCode
from safekv.cli.measuring import steps

if TYPE_CHECKING:
    from safekv.audit import runner


@click.command()
@click.option(
    "--programs",
    default=150,
    show_default=True,
    type=click.IntRange(min=20),
    help="Random programs per mode.",
)
@click.option(
    "--plays",
    default=1200,
    show_default=True,
    type=click.IntRange(min=100),
    help="Plays of the threshold attack in each world.",
)
@click.option(
    "--served",
    default=12,
    show_default=True,
    type=click.IntRange(min=1),
    help="Random programs per mode against the engine's own scheduler.",
)
@click.option("--seed", default=1, show_default=True, help="Which programs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--markdown", is_flag=True, help="Print docs/claims.md and check nothing.")
@click.pass_context
def verify(
    ctx: click.Context,
    programs: int,
    plays: int,
    served: int,
    seed: int,
    as_json: bool,
    markdown: bool,
) -> None:
    """Check every security claim against the real warden and prefix tree.

    Random programs of requests, evictions, epochs and crashes run in two worlds, with and without
    a victim's secret, and everything another tenant observes is compared; `unsafe-global` must
    differ. No model, no network, no clock: about a minute.

    Where torch is installed, the engine's own scheduler is driven too, without a forward pass.

    Keys of --json: claims (id, sentence, holds, evidence, limits), two_world and scheduler by mode
    (programs, observations, differences), skipped (ids of claims that could not be checked here),
    threshold (advantage, ci_low, ci_high, bound), environment.

    Exit status: 0 all claims hold, 1 one does not, 2 wrong usage.
    """
    from safekv.audit import claims, runner
    from safekv.bench.record import environment

    if markdown:
        click.echo(claims.as_markdown(), nl=False)
        return
    plan = runner.AuditPlan(programs=programs, plays=plays, served=served, seed=seed)
    with steps("safekv verify") as report:
        audit = runner.run(plan, report)
    if as_json:
        click.echo(json.dumps({**audit.to_json(), "environment": environment()}))
    else:
        _show(audit)
    ctx.exit(ExitCode.OK if audit.holds else ExitCode.FAILED)


def _show(audit: runner.Audit) -> None:
    table = Table(title="safekv verify", show_lines=True)
    for heading in ("", "claim", "evidence", "limits"):
        table.add_column(heading, overflow="fold")
    for one in audit.checked:
        mark = "✓" if one.outcome.holds else "✗"
        claim = one.claim
        table.add_row(mark, f"{claim.id}: {claim.sentence}", one.outcome.evidence, claim.limits)
    Console().print(table)
    if audit.skipped:
        missing = "torch and transformers are not installed (safekv[hf])"
        click.echo(f"not checked here: {', '.join(audit.skipped)}; {missing}", err=True)
    failed = [one.claim.id for one in audit.checked if not one.outcome.holds]
    if failed:
        click.echo(f"does not hold: {', '.join(failed)}", err=True)
