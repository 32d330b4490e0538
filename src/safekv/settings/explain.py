"""Settings for people and programs: what they are and where they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from itertools import groupby
from pathlib import Path

from safekv.settings.load import Origins
from safekv.settings.model import Settings, values


def as_toml(settings: Settings, origins: Origins | None = None) -> str:
    """A `safekv.toml` that gives these settings, with the origins as comments if wanted.

    A setting without a value becomes a comment, because TOML cannot say "none".
    """
    return "\n".join(_lines(settings, origins))


def as_data(settings: Settings, origins: Origins | None = None) -> dict[str, dict[str, object]]:
    """The settings by section, as JSON can hold them.

    With `origins` each is an object of `value` and `origin`.
    """
    data: dict[str, dict[str, object]] = {}
    for key, value in values(settings):
        section, _, name = key.partition(".")
        plain = _plain(value)
        entry = plain if origins is None else {"value": plain, "origin": origins[key]}
        data.setdefault(section, {})[name] = entry
    return data


def _lines(settings: Settings, origins: Origins | None) -> Iterator[str]:
    by_section = groupby(values(settings), key=lambda item: item[0].partition(".")[0])
    for index, (section, items) in enumerate(by_section):
        yield f"[{section}]" if index == 0 else f"\n[{section}]"
        for key, value in items:
            name = key.partition(".")[2]
            line = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
            yield line if origins is None else f"{line}  # {origins[key]}"


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _toml(value: object) -> str:
    """JSON's numbers, booleans, lists and strings are TOML's too, if characters stay unescaped."""
    return json.dumps(_plain(value), ensure_ascii=False)
