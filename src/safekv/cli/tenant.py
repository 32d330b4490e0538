"""`safekv tenant`: make, list and revoke the keys by which tenants are known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from safekv.gateway.tenants import KeyRecord, TenantStore, default_keys_file
from safekv.settings.load import load


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all three commands share."""
    keys = click.option(
        "--keys",
        type=click.Path(path_type=Path),
        help="Key file.  [default: server.keys_file, or tenants.json in $SAFEKV_HOME]",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    return keys(as_json(command))


def _store(keys: Path | None) -> TenantStore:
    settings, _ = load(None, os.environ, {"server.keys_file": keys})
    return TenantStore(settings.server.keys_file or default_keys_file(os.environ))


@click.group()
def tenant() -> None:
    """Manage tenant keys. A running server notices changes at once."""


@tenant.command()
@click.argument("name")
@click.option("--operator", is_flag=True, help="A key for /metrics, which cannot generate.")
@_options
def add(name: str, operator: bool, keys: Path | None, as_json: bool) -> None:
    """Print a new key for the tenant NAME. It is stored hashed and never shown again.

    A tenant may have several keys. Exit status: 0 added, 2 bad name or key file.
    """
    key = _store(keys).add(name, operator=operator)
    if as_json:
        role = "operator" if operator else "tenant"
        data = {"tenant": name, "role": role, "key_id": key.split("_")[1], "key": key}
        click.echo(json.dumps(data))
    else:
        click.echo(key)
        click.echo("Keep this key: it is not shown again.", err=True)


@tenant.command("list")
@_options
def list_keys(keys: Path | None, as_json: bool) -> None:
    """List all keys, revoked ones too, without their secrets.

    Exit status: 0 listed, 2 bad key file.
    """
    records = _store(keys).list()
    if as_json:
        click.echo(json.dumps({"keys": [record.public() for record in records]}))
    else:
        click.echo(_table(records))


@tenant.command()
@click.argument("name", metavar="NAME|KEY_ID")
@_options
def revoke(name: str, keys: Path | None, as_json: bool) -> None:
    """Revoke one key by its id, or all keys of a tenant by its name.

    Exit status: 0 revoked, 2 no such name, or bad key file.
    """
    records = _store(keys).revoke(name)
    if as_json:
        click.echo(json.dumps({"revoked": [record.public() for record in records]}))
    else:
        click.echo(f"revoked: {', '.join(record.key_id for record in records)}")


def _table(records: Sequence[KeyRecord]) -> str:
    rows: list[tuple[Any, ...]] = [("KEY ID", "TENANT", "ROLE", "CREATED", "STATE")]
    rows += [
        (one.key_id, one.tenant, one.role, one.created, "revoked" if one.revoked else "active")
        for one in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
