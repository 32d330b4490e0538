"""`safekv detect validate-judge`: whether a language model may clear what is in doubt."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from safekv.cli.errors import ExitCode


@click.command("validate-judge")
@click.option(
    "--labelled",
    required=True,
    type=click.Path(path_type=Path),
    help="JSON lines with text and private (true or false), or with spans.",
)
@click.option("--url", required=True, help="The OpenAI-compatible API, such as http://HOST/v1.")
@click.option("--model", required=True, help="The model's name there.")
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="A file, mode 0600, with the API key."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the signed record.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.pass_context
def validate_judge(
    ctx: click.Context,
    labelled: Path,
    url: str,
    model: str,
    key_file: Path | None,
    out: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask MODEL about every labelled text, and sign what its answers are worth.

    The record (--out) holds the AUROC with its 95 % interval and the threshold below which
    `detect.judge_record` lets the judge clear a block. It is signed with `deployment.key` in
    $SAFEKV_HOME and good for this model and question alone. The texts are sent to --url.

    Exit status: 0 the judge may clear, 1 it may only veto, 2 wrong usage, file or key, or an
    endpoint that does not answer.
    """
    from safekv.cli.progress import step_progress
    from safekv.detect.judge.endpoint import Endpoint, read_key
    from safekv.detect.judge.record import write_record
    from safekv.detect.judge.validate import read_cases, validate

    cases, digest = read_cases(labelled)
    endpoint = Endpoint(url, model, read_key(key_file))
    with step_progress("validation") as report:
        record = validate(
            endpoint, cases, digest, timeout, lambda done, all_: report(done, all_, "")
        )
    if out is not None:
        write_record(out, record, os.environ)
    refusal = record.refusal()
    if as_json:
        said = asdict(record) | {"may_clear": refusal is None, "refusal": refusal}
        click.echo(json.dumps(said))
    else:
        click.echo(
            f"AUROC {record.auroc:.3f} [{record.auroc_low:.3f}, {record.auroc_high:.3f}], "
            f"{record.private_cases} private and {record.other_cases} other cases"
        )
        click.echo(
            f"{model} may clear blocks that score below {record.threshold:.2f}"
            if refusal is None
            else f"{model} may only veto: {refusal}"
        )
    ctx.exit(ExitCode.OK if refusal is None else ExitCode.FAILED)
