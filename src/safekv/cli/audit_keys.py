"""Where an audit's keys come from, and what an address may look like."""

from __future__ import annotations

import os
from pathlib import Path

from safekv.errors import ConfigError

KEY_HELP = "a file that holds it, or env:NAME."


def require_plain(url: str) -> None:
    """Raise `ConfigError` for an address that a record could not show as it is."""
    if "@" in url or "?" in url:
        raise ConfigError(
            "the address holds a password or a query", "give keys with --key, and a plain address"
        )


def read_key(where: str, option: str) -> str:
    """The key that an option points to. Says nothing of what was given: it may be a key."""
    if where.startswith("env:"):
        key = os.environ.get(where[4:], "")
    else:
        try:
            key = Path(where).read_text(encoding="utf-8")
        except (OSError, ValueError):
            key = ""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{option} points to no key",
            "name a file that holds one key, or env:NAME; keys themselves are not taken",
        )
    return key
