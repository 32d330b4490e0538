"""`safekv mode`: make a running server share less."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import click

from safekv.errors import AccessError, ConfigError, EngineError
from safekv.types import Mode, Profile

KEY_VARIABLE: Final = "SAFEKV_OPERATOR_KEY"
TIMEOUT_S: Final = 30.0


@click.command()
@click.argument("mode", required=False, type=click.Choice([mode.value for mode in Mode]))
@click.option(
    "--profile",
    type=click.Choice([profile.value for profile in Profile]),
    help="What selective asks for beside a clean verdict.  [default: as it is]",
)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File with an operator's key.  [default: ${KEY_VARIABLE}]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def mode(mode: str | None, profile: str | None, url: str, key: Path | None, as_json: bool) -> None:
    """Show the mode of the server at --url, or set a stricter MODE.

    Takes effect with the next request: what is shared is private again, and only what meets the
    stricter conditions becomes shared. A server becomes stricter only; restart it to share more,
    and change its settings too, or the next start undoes it.

    Exit status: 0 shown or set, 1 the server does not answer or refuses the key, 2 it would share
    more, or wrong usage.
    """
    if mode is None and profile is not None:
        raise click.UsageError("--profile needs a MODE")
    body = None if mode is None else {"mode": mode, "profile": profile}
    found = _ask(f"{url.rstrip('/')}/v1/admin/mode", _key(key), body)
    if as_json:
        click.echo(json.dumps(found))
        return
    text = f"mode {found['mode']}, profile {found['profile']}"
    if mode is not None:
        text += f"; {found['demoted_blocks']} blocks are private again"
    click.echo(text)


def _key(file: Path | None) -> str:
    key = file.read_text().strip() if file is not None else os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise ConfigError("there is no operator key", f"use --key FILE, or set {KEY_VARIABLE}")
    return key


def _ask(url: str, key: str, body: dict[str, str | None] | None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is no http address", "use --url http://HOST:PORT")
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url,
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        method="GET" if body is None else "PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refused(error) from error
    except (OSError, ValueError) as error:
        raise EngineError(f"no server answers at {url}", "check --url") from error
    return found


def _refused(error: urllib.error.HTTPError) -> Exception:
    try:
        message = str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answers {error.code}"
    if error.code in (401, 404):
        return AccessError(f"the server does not take this key: {message}", "use an operator's")
    return ConfigError(message) if error.code in (400, 409) else EngineError(message)
