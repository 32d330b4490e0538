"""`safekv config`: what the settings are, where they came from, whether a file is right."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from safekv.settings.explain import as_data, as_toml
from safekv.settings.load import load

FILE = click.Path(path_type=Path)


@click.group()
def config() -> None:
    """Show and check settings.

    Later sources win: defaults, safekv.toml, variables such as SAFEKV_CACHE__BLOCK_TOKENS=32,
    flags.
    """


@config.command()
@click.option("--config", "path", type=FILE, help="Settings file.  [default: ./safekv.toml]")
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(path: Path | None, origin: bool, as_json: bool) -> None:
    """Print all settings, as a safekv.toml that would give them.

    Exit status: 0 printed, 2 a setting is wrong.
    """
    settings, origins = load(path, os.environ, {})
    shown = origins if origin else None
    if as_json:
        click.echo(json.dumps(as_data(settings, shown)))
    else:
        click.echo(as_toml(settings, shown))


@config.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(path: Path, as_json: bool) -> None:
    """Read FILE and say whether every setting in it is known and right.

    Variables are left out. Exit status: 0 all right, 2 something is wrong.
    """
    load(path, {}, {})
    click.echo(json.dumps({"file": str(path), "ok": True}) if as_json else f"{path}: all right")
