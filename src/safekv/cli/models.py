"""`safekv models`: the models safekv can fetch by itself, and whether they are whole."""

from __future__ import annotations

import json
from pathlib import Path

import click

from safekv.cli.progress import model_progress
from safekv.engines.hf.store import (
    DEFAULT_MODEL,
    KNOWN_MODELS,
    ModelLibrary,
    ModelState,
    PackagedModel,
    check_checkpoint,
    known_model,
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def models() -> None:
    """List, fetch and verify the models safekv knows by name."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the known models and whether each has been fetched."""
    library = ModelLibrary()
    rows = [_describe(library, model) for model in KNOWN_MODELS.values()]
    if as_json:
        click.echo(json.dumps({"models": rows}))
        return
    for row in rows:
        mark = " (default)" if row["default"] else ""
        click.echo(f"{row['name']}{mark}  {row['state']}  {row['path']}")


@models.command()
@click.argument("name", default=DEFAULT_MODEL)
@click.option("--force", is_flag=True, help="Fetch again and replace what is there.")
@json_option
def fetch(name: str, force: bool, as_json: bool) -> None:
    """Download and convert the known model NAME, unless it is there already.

    Prints the directory that holds it. Damage found there is not repaired without --force.
    """
    model = known_model(name)
    library = ModelLibrary()
    was_ready = library.state(model) is ModelState.READY and not force
    with model_progress(model.alias) as report:
        path = library.fetch(model, force=force, report=report)
    if as_json:
        click.echo(json.dumps({"name": model.alias, "path": str(path), "fetched": not was_ready}))
    else:
        click.echo(path)


@models.command()
@click.argument("name", default=DEFAULT_MODEL)
@json_option
def verify(name: str, as_json: bool) -> None:
    """Check every byte of the fetched model NAME, or the files of a model directory.

    A directory of your own has no checksums: there, headers and completeness are checked.
    """
    if Path(name).expanduser().exists():
        path = Path(name).expanduser()
        check_checkpoint(path)
    else:
        with model_progress(name) as report:
            path = ModelLibrary().verify(known_model(name), report)
    if as_json:
        click.echo(json.dumps({"name": name, "path": str(path), "ok": True}))
    else:
        click.echo(f"{path} is whole")


def _describe(library: ModelLibrary, model: PackagedModel) -> dict[str, object]:
    return {
        "name": model.alias,
        "model_id": model.model_id,
        "default": model.alias == DEFAULT_MODEL,
        "state": library.state(model).value,
        "path": str(library.path_of(model)),
        "source": model.requirement,
    }
