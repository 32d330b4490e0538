"""`safekv detect`: what the detector finds in a text, how well it does, and how it is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safekv.cli.detect_judge import validate_judge
from safekv.cli.errors import ExitCode
from safekv.errors import ConfigError

if TYPE_CHECKING:
    from safekv.detect.config import DetectConfig

_RULES = click.option(
    "--rules",
    "rulesets",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A TOML file of more rules; may be given several times.",
)
_CLASSIFIER = click.option(
    "--classifier",
    type=click.Path(path_type=Path),
    help="A folder that `safekv detect train` made, in the place of the shipped model.",
)
_RULES_ONLY = click.option("--rules-only", is_flag=True, help="Leave out stage 2.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.group()
def detect() -> None:
    """Scan texts for private data; measure and train the detector."""


@detect.command()
@click.argument("file", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@_RULES
@_CLASSIFIER
@_RULES_ONLY
@click.option("--show", is_flag=True, help="Print the values found; they are masked otherwise.")
@_JSON
@click.pass_context
def scan(
    ctx: click.Context,
    file: Path,
    rulesets: tuple[Path, ...],
    classifier: Path | None,
    rules_only: bool,
    show: bool,
    as_json: bool,
) -> None:
    """Print what the detector finds in FILE and where, in characters.

    What two stages find is told by each of them.

    With --json one object a line: start, end, type, stage, confidence; and value with
    --show. Bytes that are not UTF-8 are read as U+FFFD. Exit status: 0 nothing found, 1
    something found, 2 wrong usage, unreadable file, bad rule file or bad classifier.
    """
    from safekv.detect.registry import build_cascade

    text = _text(file)
    found = build_cascade(_config(rulesets, classifier, rules_only), _ignore).locate(text)
    for one in found:
        value = text[one.start : one.end]
        if as_json:
            row: dict[str, object] = {"start": one.start, "end": one.end, "type": one.kind}
            row |= {"stage": one.stage, "confidence": one.confidence}
            click.echo(json.dumps(row | ({"value": value} if show else {})))
        else:
            shown = value if show else "*" * min(len(value), 12)
            place = f"{one.start}-{one.end}"
            click.echo(f"{place}\t{one.kind}\t{one.stage}\t{one.confidence:.2f}\t{shown}")
    ctx.exit(ExitCode.FAILED if found else ExitCode.OK)


detect.add_command(validate_judge)


@detect.command("eval")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The folder of corpora that `safekv detect train` reads: measures their held-out parts.",
)
@click.option(
    "--spans",
    "span_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Your own JSON lines with text and spans; may be given several times.",
)
@click.option(
    "--conll",
    "conll_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Your own CoNLL file; may be given several times.",
)
@click.option(
    "--half",
    type=click.Choice(["both", "tuned", "held-out"]),
    default="both",
    show_default=True,
    help="Which half of the templates of --spans and --conll to measure.",
)
@click.option("--peers/--no-peers", default=True, help="Also measure the peers installed.")
@_RULES
@_CLASSIFIER
@_RULES_ONLY
@_JSON
def evaluate_sets(
    data: Path | None,
    span_files: tuple[Path, ...],
    conll_files: tuple[Path, ...],
    half: str,
    peers: bool,
    rulesets: tuple[Path, ...],
    classifier: Path | None,
    rules_only: bool,
    as_json: bool,
) -> None:
    """Measure the detector, stage by stage and against peers, on labelled text.

    The adversarial set, made in code, is always measured. A token counts as 4 characters.
    Peers are measured on the first 60 texts of every set. Exit status: 0 measured, 2 wrong usage,
    unreadable data, bad rule file or bad classifier.
    """
    from safekv.cli.progress import step_progress
    from safekv.detect.suite import Suite, run_suite

    suite = Suite.read(data, span_files, conll_files, half)
    with step_progress("evaluation") as report:
        config = _config(rulesets, classifier, rules_only, lookahead=0)
        result = run_suite(suite, config, peers, report)
    click.echo(json.dumps(result) if as_json else _table(result))


@detect.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder of corpora; docs/decisions/0006 lists their origin.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--seed", type=int, default=20, show_default=True)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True)
@click.option("--layers", type=click.IntRange(1, 6), default=3, show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="End the training after this time at the latest, with what it has learnt by then.",
)
@_JSON
def train(
    data: Path,
    out: Path,
    seed: int,
    epochs: float,
    layers: int,
    minutes: float | None,
    as_json: bool,
) -> None:
    """Train the token classifier on the corpora in --data and write it to --out.

    Needs the extra `train`. Takes some 15 minutes of one CPU core, less on a GPU. The
    manifest in --out records seed, data sums, licences and metrics. Exit status: 0 trained, 2 wrong
    usage, missing corpus or package, or --out exists.
    """
    from safekv.cli.progress import step_progress

    try:
        from safekv.detect.training.recipe import Recipe
        from safekv.detect.training.run import train_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs the package {error.name}", "pip install 'safekv[train]'"
        ) from error
    recipe = Recipe(seed=seed, epochs=epochs, layers=layers, minutes=minutes)
    with step_progress("training") as report:
        manifest = train_model(
            data, out, recipe, lambda one: report(one.step, one.steps, f"loss {one.loss:.3f}")
        )
    result = {"folder": str(out), "version": manifest.version, "metrics": manifest.metrics}
    click.echo(json.dumps(result) if as_json else f"{out}: classifier {manifest.version}")


def _config(
    rulesets: tuple[Path, ...], classifier: Path | None, rules_only: bool, lookahead: int = 64
) -> DetectConfig:
    from safekv.detect.config import DetectConfig

    if rules_only and classifier is not None:
        raise click.UsageError("--rules-only leaves out what --classifier names")
    stages = ("rules",) if rules_only else ("rules", "classifier")
    return DetectConfig(
        stages=stages, extra_rulesets=rulesets, classifier=classifier, lookahead_chars=lookahead
    )


def _ignore(stage: str, reason: str) -> None:
    """Locating raises what goes wrong; only judging reports it."""


def _text(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"file {file} cannot be read ({type(error).__name__})", "name a readable file, or -"
        ) from error
    return data.decode(errors="replace")


def _table(result: Mapping[str, Any]) -> str:
    lines = []
    for name, one in result["datasets"].items():
        blocks = ", ".join(
            f"{size} tokens {_shown(score['recall'])}/{_shown(score['precision'])}"
            for size, score in one["blocks"].items()
        )
        lines.append(f"{name} ({one['split']})")
        lines.append(f"  blocks, recall/precision: {blocks}")
        lines.append(f"  false flags: {_shown(one['false_flag_rate'])}")
        lines.append(f"  {'KIND':24}  RECALL   PREC.      F1  SUPPORT")
        for kind, score in one["entity"].items():
            lines.append(
                f"  {kind:24}{_shown(score['recall']):>8}{_shown(score['precision']):>8}"
                f"{_shown(score['f1']):>8}{score['support']:>9}"
            )
    lines += [f"{key}: {json.dumps(value)}" for key, value in result["latency"].items()]
    lines += [
        f"peer {name}: {'measured, see --json' if isinstance(peer, dict) else peer}"
        for name, peer in result["peers"].items()
    ]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
