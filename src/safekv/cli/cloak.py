"""`safekv cloak`: keys for KV-Cloak, fusing it into a model, and what that changed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import click

from safekv.cli.measuring import steps

KEY = click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Cloak key file.  [default: cloak-key.json in $SAFEKV_HOME]",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def cloak() -> None:
    """Obfuscate KV with KV-Cloak's matrices: experimental, and not encryption.

    BROKEN BY KNOWN PLAINTEXT: whoever reads KV pages and knows the start of a prompt, such as a
    chat template, solves for the matrices and reads the rest. It stops only readers who do not
    adapt to it, and notices no tampering. For what leaves the device use the vault.
    """


@cloak.command()
@KEY
@click.option("--rotate", is_flag=True, help="Add a newer version to an existing file.")
@AS_JSON
def keygen(key: Path | None, rotate: bool, as_json: bool) -> None:
    """Write a new random cloak key, readable by you alone. Never replaces one.

    Exit status: 0 made, 2 there is one already (or none to rotate), or a bad path.
    """
    from safekv.cloak.keys import CloakKeyFile, default_cloak_file

    file = CloakKeyFile(key or default_cloak_file(os.environ))
    made = file.rotate() if rotate else file.create()
    fields = {"key_version": made.version, "file": str(file.path)}
    click.echo(json.dumps(fields) if as_json else f"wrote version {made.version} to {file.path}")


@cloak.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@KEY
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(1, 1000),
    help="Planes of M are scaled within [1/SCALE, SCALE]. Costs precision.",
)
@AS_JSON
def fuse(model: str, out: Path, key: Path | None, scale: float, as_json: bool) -> None:
    """Fold M into MODEL's attention weights and write a normal checkpoint to OUT.

    MODEL is a directory or a known name, of type Llama, Mistral, Qwen2 or GPT-2. Models that
    normalise queries and keys (Qwen3, Gemma 3) are refused: M would not pass through the norm.
    The fused model answers as the plain one does, and its KV is obfuscated by M alone. Whoever
    has both checkpoints, or reads KV and knows a part of the prompt, can compute M. Keep OUT
    as secret as the key.

    Exit status: 0 written, 1 OUT exists, 2 no key, or a model that cannot be fused.
    """
    from safekv.cloak.fusion import fuse_checkpoint
    from safekv.cloak.keys import CloakKeyFile, default_cloak_file

    secret = CloakKeyFile(key or default_cloak_file(os.environ)).key()
    source = _directory(model)
    with steps("fusing") as report:
        shapes = fuse_checkpoint(source, out, secret, scale, report)
    fields = {"model": model, "out": str(out), "key_version": secret.version, **asdict(shapes)}
    click.echo(json.dumps(fields) if as_json else f"fused {shapes.layers} layers into {out}")


@cloak.command()
@click.argument("model")
@click.argument("fused", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="What both models compute in.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text of 2,048 tokens or more.  [default: Python's reference manual]",
)
@KEY
@click.option("--beacon/--no-beacon", default=True, help="Whether blocks carry a beacon.")
@click.option(
    "--condition",
    default=1.0,
    show_default=True,
    type=click.FloatRange(1, 1e6),
    help="Condition number of S, at most.",
)
@click.option("--quick", is_flag=True, help="510 tokens of text, 4 prompts of 16 tokens.")
@AS_JSON
def verify(
    model: str,
    fused: Path,
    dtype: str,
    text: Path | None,
    key: Path | None,
    beacon: bool,
    condition: float,
    quick: bool,
    as_json: bool,
) -> None:
    """Compare FUSED, its KV cloaked, with the plain MODEL: logits, greedy tokens, perplexity.

    20 prompts of 64 greedy tokens and 2,048 tokens of text, once with M in the weights alone, and
    once with full blocks of KV under S, P and the beacon, undone where attention reads. This
    says that nothing changed, not that anything is hidden: see `safekv cloak --help`.

    Exit status: 0 compared, whatever came out, 1 the text is too short, 2 no key or no such model.
    """
    from safekv.cloak.keys import CloakKeyFile, default_cloak_file
    from safekv.cloak.verify import QUICK, VerifyPlan, manual_text
    from safekv.cloak.verify import verify as compared

    words = manual_text() if text is None else text.read_text(encoding="utf-8")
    plan = replace(
        QUICK if quick else VerifyPlan(), dtype=dtype, beacon=beacon, condition=condition
    )
    keys = CloakKeyFile(key or default_cloak_file(os.environ))
    with steps("comparing") as report:
        told = compared(_directory(model), fused, words, plan, report, keys)
    fields = {**asdict(told), "model": model}
    if as_json:
        click.echo(json.dumps(fields))
    else:
        click.echo("\n".join(f"{name}: {value}" for name, value in fields.items()))


def _directory(model: str) -> Path:
    """Where a model lies: a directory as it is, a known name fetched if need be."""
    from transformers.utils.logging import disable_progress_bar

    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import resolve_model
    from safekv.errors import ModelError

    disable_progress_bar()
    with model_progress(model) as report:
        found = resolve_model(model, progress=report)
    if not isinstance(found, Path):
        raise ModelError(f"{model} is not a directory of weights", "fetch it first")
    return found
