"""`safekv detect`: what stage 1 finds in a text, and how well it does on labelled ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from safekv.cli.errors import ExitCode
from safekv.errors import ConfigError

_RULES = click.option(
    "--rules",
    "rulesets",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A TOML file of more rules; may be given several times.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.group()
def detect() -> None:
    """Check texts for private data and measure the detector."""


@detect.command()
@click.argument("file", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@_RULES
@_JSON
@click.pass_context
def check(ctx: click.Context, file: Path, rulesets: tuple[Path, ...], as_json: bool) -> None:
    """Print where rules fire in FILE, in characters, and never the text itself.

    With --json one object a line: start, end, type, stage, confidence. Bytes that are not
    UTF-8 are read as U+FFFD. Exit status: 0 nothing found, 1 something found, 2 wrong usage,
    unreadable file or bad rule file.
    """
    from safekv.detect.rules import RuleDetector

    found = _detector(RuleDetector, rulesets).find(_text(file))
    for start, end, rule in found:
        if as_json:
            row = {"start": start, "end": end, "type": rule, "stage": "rules", "confidence": 1.0}
            click.echo(json.dumps(row))
        else:
            click.echo(f"{start}-{end}\t{rule}")
    ctx.exit(ExitCode.FAILED if found else ExitCode.OK)


@detect.command("eval")
@click.option(
    "--data",
    "files",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Labelled text: JSON lines with text and spans, or .conll; may be given several times.",
)
@click.option(
    "--half",
    type=click.Choice(["both", "tuned", "held-out"]),
    default="both",
    show_default=True,
    help="Which half of the templates to measure.",
)
@_RULES
@_JSON
def evaluate_files(
    files: tuple[Path, ...], half: str, rulesets: tuple[Path, ...], as_json: bool
) -> None:
    """Measure recall, precision and F1 by kind, false flags and latency on labelled text.

    Exit status: 0 measured, 2 wrong usage, unreadable data or bad rule file.
    """
    from safekv.detect.evaluate import evaluate, half_of, read_labelled
    from safekv.detect.rules import RuleDetector

    detector = _detector(RuleDetector, rulesets)
    results: dict[str, Any] = {}
    for file in files:
        texts = read_labelled(file)
        chosen = texts if half == "both" else half_of(texts, held_out=half == "held-out")
        results[str(file.name)] = {"split": half, **evaluate(detector, chosen)}
    click.echo(json.dumps({"datasets": results}) if as_json else _table(results))


def _detector(kind: Any, rulesets: tuple[Path, ...]) -> Any:
    from safekv.detect.config import DetectConfig

    return kind.from_config(DetectConfig(extra_rulesets=rulesets))


def _text(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"file {file} cannot be read ({type(error).__name__})", "name a readable file, or -"
        ) from error
    return data.decode(errors="replace")


def _table(results: dict[str, Any]) -> str:
    lines = []
    for name, result in results.items():
        latency = result["latency_us_per_4000_characters"]
        lines.append(
            f"{name} ({result['split']}): {result['documents']} documents, false flags "
            f"{_shown(result['false_flag_rate'])}, p50 {latency['p50']} us, p99 {latency['p99']} us"
        )
        lines.append(f"  {'KIND':24}  RECALL   PREC.      F1  DOC. RECALL   CHARS")
        for kind, score in result["characters"].items():
            by_document = result["by_document"][kind]["recall"]
            lines.append(
                f"  {kind:24}{_shown(score['recall']):>8}{_shown(score['precision']):>8}"
                f"{_shown(score['f1']):>8}{_shown(by_document):>13}{score['support']:>8}"
            )
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
