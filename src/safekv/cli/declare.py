"""`safekv declare`: which texts every tenant may share, because an operator says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from safekv.errors import ConfigError
from safekv.gateway.declarations import Declaration, DeclarationStore

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class FileFirst(click.Group):
    """A group in which a name that is no command is a file to declare."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `declare --text ...` and `declare FILE` mean `declare add ...`.
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["add", *args]
        return super().parse_args(ctx, args)


@click.group(cls=FileFirst, context_settings={"help_option_names": ["-h", "--help"]})
def declare() -> None:
    """Declare a text public: `safekv declare FILE`, `safekv declare --text TEXT`.

    All tenants share its KV from the next epoch after somebody sent it, in the modes `declared`
    and `selective`, without asking the detector. A running server notices changes at its next
    epoch. The declarations are signed with `deployment.key` in $SAFEKV_HOME.
    """


@declare.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--text", help="The text itself instead of a file.")
@click.option("--system", is_flag=True, help="It is a chat's system message, not a prompt.")
@AS_JSON
def add(file: Path | None, text: str | None, system: bool, as_json: bool) -> None:
    """Declare what FILE holds, to the byte, or TEXT.

    Exit status: 0 declared, 2 no text, or the store cannot be trusted.
    """
    if (file is None) == (text is None):
        raise click.UsageError("name one FILE, or use --text")
    one = _store().add(_read(file) if file is not None else text or "", system=system)
    click.echo(json.dumps(_public(one)) if as_json else one.id)


@declare.command("list")
@AS_JSON
def list_declared(as_json: bool) -> None:
    """List what is declared, without the texts. Exit status: 0 listed, 2 not to be trusted."""
    found = _store().list()
    if as_json:
        click.echo(json.dumps({"declared": [_public(one) for one in found]}))
        return
    for one in found:
        kind = "system" if one.system else "text"
        click.echo(f"{one.id}  {kind:6}  {one.created}  {len(one.text)} characters")


@declare.command()
@click.argument("declaration_id", metavar="ID")
@AS_JSON
def revoke(declaration_id: str, as_json: bool) -> None:
    """Share the text with this ID no more. Exit status: 0 revoked, 2 no such ID."""
    one = _store().revoke(declaration_id)
    click.echo(json.dumps({"revoked": _public(one)}) if as_json else f"revoked: {one.id}")


def _store() -> DeclarationStore:
    return DeclarationStore.default(os.environ)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"cannot read {file}: {reason}", "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text", "save it as UTF-8") from error


def _public(one: Declaration) -> dict[str, object]:
    return {
        "id": one.id,
        "system": one.system,
        "created": one.created,
        "characters": len(one.text),
    }
