"""`safekv tenant`: make, list and revoke the keys by which tenants are known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from safekv.cli.columns import aligned
from safekv.errors import ConfigError
from safekv.gateway.tenants import KeyRecord, TenantStore, default_keys_file
from safekv.settings.load import load
from safekv.types import TenantId


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


@tenant.command()
@click.argument("name")
@click.option(
    "--vault",
    "keyring",
    type=click.Path(path_type=Path),
    help="File of wrapped data keys.  [default: vault-keys.json in $SAFEKV_HOME]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def forget(name: str, keyring: Path | None, as_json: bool) -> None:
    """Make unreadable whatever was sealed for the tenant NAME, by deleting its data keys.

    Sealed blocks on disk stay where they are and open no more, in a running server within a
    tenth of a second. As lasting as backups of the key file: `safekv vault rotate` makes those
    useless too. The tenant's access is untouched (see `revoke`), and what it sends from now on
    is sealed under a new key. Exit status: 0 forgotten, 2 nothing was sealed for it.
    """
    from safekv.vault.keyring import FileKeyring, default_keyring_file
    from safekv.vault.master import masters_from
    from safekv.vault.vault import Vault

    path = keyring or default_keyring_file(os.environ)
    if not Vault(FileKeyring(path), masters_from(os.environ)).forget(TenantId(name)):
        raise ConfigError(
            f"there is no data key of a tenant {name!r} in {path}", "see `safekv vault list`"
        )
    fields = {"tenant": name, "forgotten": True}
    click.echo(json.dumps(fields) if as_json else f"forgotten: {name}")


def _table(records: Sequence[KeyRecord]) -> str:
    rows: list[tuple[str, ...]] = [("KEY ID", "TENANT", "ROLE", "CREATED", "STATE")]
    rows += [
        (one.key_id, one.tenant, one.role, one.created, "revoked" if one.revoked else "active")
        for one in records
    ]
    return aligned(rows)
