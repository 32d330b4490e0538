"""JSON lines, plain or gzipped, with errors that name the line."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safekv.errors import ConfigError

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]


class LineError(ConfigError):
    """A line of a trace is not what the format says. Nothing was measured."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        super().__init__(f"{path}, line {line}: {what}", "mend or remove the line")


def rows(path: Path) -> Rows:
    """Line numbers (from 1) and JSON objects. Raises `ConfigError` for what is neither."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _row(path, number, line)
    except EOFError as error:
        raise LineError(path, number + 1, "the gzip file ends too early") from error
    except (OSError, zlib.error) as error:
        what = getattr(error, "strerror", None) or "not a readable gzip file"
        raise ConfigError(f"cannot read {path}: {what}", "pass a trace file") from error


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError(path, number, "not a JSON object") from error
    if not isinstance(row, dict):
        raise LineError(path, number, "not a JSON object")
    return row


class Fields:
    """Typed reading of one row. Each method raises `LineError` and names the field."""

    def __init__(self, path: Path, line: int, row: Row) -> None:
        self.path, self.line, self._row = path, line, row

    def error(self, what: str) -> LineError:
        return LineError(self.path, self.line, what)

    def number(self, name: str) -> float:
        """A finite number that is not negative."""
        value = self._row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{name} is not a number")
        if not math.isfinite(value) or value < 0:
            raise self.error(f"{name} is {value}, use 0 or more")
        return float(value)

    def count(self, name: str) -> int:
        """A whole number that is not negative."""
        value = self.number(name)
        if value != int(value):
            raise self.error(f"{name} is {value}, use a whole number")
        return int(value)

    def ids(self, name: str) -> list[int]:
        """A list of whole numbers."""
        value = self._row.get(name)
        if not isinstance(value, list) or not all(type(one) is int for one in value):
            raise self.error(f"{name} is not a list of whole numbers")
        return value

    def label(self, name: str) -> str | None:
        """A text or number as text; `None` when the field is missing or null."""
        value = self._row.get(name)
        return None if value is None else str(value)

    def flag(self, name: str) -> bool | None:
        value = self._row.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"{name} is not true or false")
        return value
