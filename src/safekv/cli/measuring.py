"""What all commands that measure have in common: progress, and where the record goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import Progress

Record = dict[str, Any]


class Report(Protocol):
    """Told how many steps are done, and of how many."""

    def __call__(self, done: int, total: int, /) -> None: ...


@contextmanager
def steps(title: str) -> Iterator[Report]:
    """A progress bar on stderr, gone when the work is done."""
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def publish(
    record: Record, show: Callable[[Record], None], *, as_json: bool, out: Path | None
) -> None:
    """Append `record` to the file `out` if given; then print it, as JSON or as `show` does."""
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    if as_json:
        click.echo(json.dumps(record))
    else:
        show(record)
