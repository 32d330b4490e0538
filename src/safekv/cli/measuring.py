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


def counts(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    """The numbers of a list such as `1,2,10`. Raises `BadParameter` for anything else."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,2,10")
    return found


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
