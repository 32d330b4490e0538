"""`safekv vault`: the keys under which blocks are sealed before they leave the device."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safekv.cli.columns import aligned

if TYPE_CHECKING:
    from safekv.vault.keyring import WrappedKey

MASTER = click.option(
    "--master",
    type=click.Path(path_type=Path),
    help="Master key file.  [default: $SAFEKV_VAULT_MASTER_KEY, or vault-master.json "
    "in $SAFEKV_HOME]",
)
KEYRING = click.option(
    "--vault",
    "keyring",
    type=click.Path(path_type=Path),
    help="File of wrapped data keys.  [default: vault-keys.json in $SAFEKV_HOME]",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group()
def vault() -> None:
    """Manage the vault's keys: a master key wraps one random data key per tenant.

    Deleting a tenant's wrapped key (`safekv tenant forget`) makes unreadable whatever was
    sealed for it.
    """


@vault.command()
@MASTER
@click.option("--print", "to_stdout", is_flag=True, help="Print the key, for a secret store.")
@AS_JSON
def keygen(master: Path | None, to_stdout: bool, as_json: bool) -> None:
    """Write a new random master key, readable by you alone. Never replaces one.

    With --print nothing is written: give what is printed to the server as
    $SAFEKV_VAULT_MASTER_KEY. Exit status: 0 made, 2 there is one already, or a bad path.
    """
    from safekv.vault.master import LocalMaster, MasterFile, default_master_file

    if to_stdout:
        made = LocalMaster.generate()
        fields = {"master_key_id": made.key_id, "master_key": made.encode()}
        click.echo(json.dumps(fields) if as_json else made.encode())
        return
    file = MasterFile(master or default_master_file(os.environ))
    fields = {"master_key_id": file.create().key_id, "file": str(file.path)}
    click.echo(json.dumps(fields) if as_json else f"wrote {file.path}")
    click.echo("Back it up: without it nothing sealed can be opened.", err=True)


@vault.command("list")
@KEYRING
@AS_JSON
def list_keys(keyring: Path | None, as_json: bool) -> None:
    """List whose data keys there are, their versions and what wraps them; never a key.

    Exit status: 0 listed, 2 bad key file.
    """
    from safekv.vault.keyring import FileKeyring, default_keyring_file

    _, content = FileKeyring(keyring or default_keyring_file(os.environ)).read()
    if as_json:
        click.echo(json.dumps({"keys": [key.public() for key in content.keys]}))
    else:
        click.echo(_table(content.keys))


@vault.command()
@KEYRING
@MASTER
@AS_JSON
def rotate(keyring: Path | None, master: Path | None, as_json: bool) -> None:
    """Replace the master key; what is sealed stays and opens as before.

    All data keys are wrapped again under a new key, then the old one is destroyed. Where the
    master key comes from $SAFEKV_VAULT_MASTER_KEY, put the new one before the old one (NEW,OLD)
    first, run this, and then remove the old one.

    Exit status: 0 rotated, 1 a data key could not be unwrapped (all keys stay), 2 no master key,
    or a bad key file.
    """
    from safekv.vault import Vault
    from safekv.vault.keyring import FileKeyring, default_keyring_file
    from safekv.vault.master import MasterFile, masters_from

    masters = masters_from(os.environ, master)
    keys = Vault(FileKeyring(keyring or default_keyring_file(os.environ)), masters)
    with masters.replacing() if isinstance(masters, MasterFile) else nullcontext():
        rewrapped = keys.rotate_master()
        new = masters.current()
    fields = {"master_key_id": new.key_id, "rewrapped_keys": rewrapped}
    click.echo(json.dumps(fields) if as_json else f"{rewrapped} data keys wrapped again")


def _table(keys: Sequence[WrappedKey]) -> str:
    rows = [("HOLDER", "VERSION", "MASTER KEY", "CREATED")]
    rows += [(key.holder, str(key.version), key.master_id, key.created) for key in keys]
    return aligned(rows)
