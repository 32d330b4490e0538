"""Reads stored records: JSON lines, one measurement each, as `--out` appends them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safekv.errors import ConfigError

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a file, or of all `*.jsonl` of a directory, in the order they were stored.

    Raises `ConfigError` for what cannot be read, and names the line that is no record.
    """
    if path.is_dir():
        found = [record for file in sorted(path.glob("*.jsonl")) for record in _of(file)]
        if not found:
            raise ConfigError(f"{path} has no records", "pass a folder with .jsonl files")
        return found
    return list(_of(path))


def _of(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", "pass a file of records") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}, line {number}: not a JSON object", "pass a file of records"
            ) from error
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object", "pass a file of records")
        # Files older than the field are named for their benchmark.
        record.setdefault("benchmark", path.stem)
        yield record


def of(records: Iterable[Record], benchmark: str) -> list[Record]:
    """Those of one benchmark, the latest last; what was cut short is left out."""
    return [
        record
        for record in records
        if record["benchmark"] == benchmark and not record.get("partial")
    ]


def where(record: Record) -> str:
    """Commit, processor, cores, load and time of a record, in one line."""
    facts = record.get("environment")
    if not isinstance(facts, dict):
        return "unknown"
    load = facts.get("load_average") or ["?"]
    commit = str(facts.get("commit") or "no commit")
    short = commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")
    place = f"{facts.get('cpu')}, {facts.get('cores')} cores, load {load[0]}"
    return f"{short}; {place}; {facts.get('utc', '?')}"
