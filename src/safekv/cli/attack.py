"""`safekv attack`: what does a stolen KV cache give away?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safekv.cli.errors import ExitCode

if TYPE_CHECKING:
    from safekv.attack.public import PublicModel
    from safekv.audit.stolen.plan import Plan

MODEL = click.option(
    "--model", default="smollm2-135m-instruct", show_default=True, help="Directory or known name."
)
PROMPTS = click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON lines {"text": …, "pii": […]}.  [default: 24 made-up ones]',
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), help="Threads of torch.  [default: its own choice]"
)


class AttackGroup(click.Group):
    """`safekv attack collision …` is `safekv attack run collision …`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            return run.name, run, args
        return super().resolve_command(ctx, args)


@click.group(cls=AttackGroup)
def attack() -> None:
    """Attack KV caches as a thief would: captured tensors and public knowledge, no keys.

    `safekv attack NAME` runs one attack against one protection (see `safekv attack run --help`),
    `safekv attack report` all of them. Only for caches that are yours, or that you may test:
    docs/attacks.md.
    """


@attack.command()
@click.argument("name")
@MODEL
@PROMPTS
@THREADS
@click.option("--protection", default="none", show_default=True, help="What hides the cache.")
@click.option(
    "--layer",
    default="first",
    show_default=True,
    type=click.Choice(["first", "middle", "last"]),
    help="The stolen layer; injection and swap take all.",
)
@click.option(
    "--dtype",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16", "int8"]),
    help="What the cache is stored in.",
)
@click.option("--victims", default=20, show_default=True, type=click.IntRange(1))
@click.option("--show", is_flag=True, help="Print the recovered texts too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def run(
    name: str,
    model: str,
    prompts: Path | None,
    threads: int | None,
    protection: str,
    layer: str,
    dtype: str,
    victims: int,
    show: bool,
    as_json: bool,
) -> None:
    """Run the attack NAME and print one row.

    NAME: collision, inversion, inverter, injection, template, chosen, membership, fused, swap.
    Protections: none, quantised (4 bits), noise, permute, cloak, stream, vault.

    Keys of --json: attack, protection, layer, dtype, prompts, token_recovery,
    token_recovery_ci, rouge_l, pii_recovered, random_baseline, wrong_key_control, tokens_per_s;
    with --show also texts, pairs of prompt and reading.

    Exit status: 0 measured, whatever came out, 2 an unknown name, or a model that cannot be
    attacked that way.
    """
    from safekv.attack.prompts import BUNDLED, load_prompts
    from safekv.audit.stolen.measure import measure
    from safekv.audit.stolen.plan import Plan
    from safekv.audit.stolen.session import Session
    from safekv.audit.stolen.storage import Stored
    from safekv.cli.measuring import steps
    from safekv.errors import ConfigError

    plan = Plan(
        attacks=(name,),
        protections=(protection,),
        layers=(layer,),
        dtypes=(Stored(dtype),),
        victims=victims,
    )
    cells = list(plan.cells())
    if not cells:
        raise ConfigError(
            f"attack {name!r} has nothing to do with protection {protection!r} at layer {layer}",
            "docs/attacks.md says what each attack solves for",
        )
    public = _load(model, threads)
    with steps(f"safekv attack {name}") as report:
        report(0, 1)
        found = measure(Session(public, load_prompts(prompts or BUNDLED), plan), cells[0])
    row = {**found.row, "texts": found.texts} if show else found.row
    if as_json:
        click.echo(json.dumps(row, ensure_ascii=False))
        return
    for key, value in found.row.items():
        click.echo(f"{key}: {value}")
    for true, read in found.texts if show else ():
        click.echo(f"\nprompt: {true}\n  read: {read}")


@attack.command()
@MODEL
@PROMPTS
@THREADS
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the report; an interrupted one goes on there.",
)
@click.option("--quick", is_flag=True, help="A few short pieces of everything: minutes.")
@click.option("--attack", "attacks", multiple=True, help="Only this attack (repeatable).")
@click.option("--protection", "protections", multiple=True, help="Only this one (repeatable).")
@click.option("--layer", "layers", multiple=True, help="Only first, middle or last (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append report.json to this file, as one line.",
)
@click.pass_context
def report(
    ctx: click.Context,
    model: str,
    prompts: Path | None,
    threads: int | None,
    out: Path,
    quick: bool,
    attacks: tuple[str, ...],
    protections: tuple[str, ...],
    layers: tuple[str, ...],
    as_json: bool,
    record: Path | None,
) -> None:
    """Run all attacks against all protections, layers and dtypes, and write a report.

    OUT gets report.json (rows, environment), details.json (further metrics, recovered texts),
    report.md, heatmap.svg and report.html, which needs nothing else. Interrupt it at will: what
    is done lies in OUT/cells.jsonl and is not done again.

    Exit status: 0 everything came out as expected, 1 something did not (the report says what),
    2 wrong usage.
    """
    from dataclasses import replace

    from safekv.attack.prompts import BUNDLED, load_prompts
    from safekv.audit.stolen import report as written
    from safekv.audit.stolen.plan import Plan
    from safekv.audit.stolen.run import run as measured
    from safekv.bench.record import environment
    from safekv.cli.progress import step_progress

    plan: Plan = Plan.quick() if quick else Plan()
    plan = replace(
        plan,
        attacks=attacks or plan.attacks,
        protections=protections or plan.protections,
        layers=layers or plan.layers,
    )
    public = _load(model, threads)
    with step_progress("safekv attack report") as progress:
        records = measured(public, model, load_prompts(prompts or BUNDLED), plan, out, progress)
    found = written.write(out, records, {"model": model, **environment()})
    if record is not None:
        line = json.dumps(json.loads((out / "report.json").read_text(encoding="utf-8")))
        with record.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if as_json:
        click.echo((out / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        for one in found:
            click.echo(f"{'yes' if one.holds else 'NO '} {one.sentence} ({one.evidence})")
        click.echo(f"wrote {out / 'report.html'}")
    ctx.exit(ExitCode.OK if all(one.holds for one in found) else ExitCode.FAILED)


def _load(model: str, threads: int | None) -> PublicModel:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from safekv.attack.public import PublicModel
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import resolve_model

    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    with model_progress(model) as report:
        found = resolve_model(model, progress=report)
    return PublicModel.load(found)
