"""`safekv demo`: what sharing a prefix cache leaks, and what it saves, measured here and now."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from safekv.cli.errors import ExitCode
from safekv.demo.figure import summary_figure
from safekv.demo.findings import Finding, findings
from safekv.demo.page import page
from safekv.demo.plan import PLAYED, StoryPlan
from safekv.demo.play import Performance, play
from safekv.demo.report import require_writable, table, write_text
from safekv.demo.story import Stage
from safekv.types import Mode

MODES = [mode.value for mode in PLAYED]
TABLE_WIDTH = 120


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="What to serve.")
@click.option(
    "--modes",
    default=",".join(MODES),
    show_default=True,
    help="Which modes to play, separated by commas.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="safekv-demo.html",
    show_default=True,
    help="Where to write the report, one self-contained page.",
)
@click.option("--svg", type=click.Path(path_type=Path), help="Also write a small picture here.")
@click.option("--seed", default=StoryPlan().seed, show_default=True, help="Secrets and orders.")
@click.option("--quick", is_flag=True, help="Few samples: a trial run, not a result.")
@click.option(
    "--keep-server-log",
    "log",
    type=click.Path(path_type=Path),
    help="Append the servers' output here.",
)
def demo(
    model: str,
    modes: str,
    as_json: bool,
    out: Path,
    svg: Path | None,
    seed: int,
    quick: bool,
    log: Path | None,
) -> int:
    """Show what sharing a prefix cache leaks, and what it saves.

    Starts a server in each mode on a free local port, and plays the same story there: honest
    tenants, a victim with made-up secrets, and an attacker who guesses them from response
    times alone. Everything shown is measured in this run, which takes some minutes.

    Exit status: 0 shown as expected, 1 an expected outcome did not show or a server failed,
    2 wrong usage, 3 a server answered in an unexpected way, 130 interrupted.
    """
    chosen = _modes(modes)
    plan = _plan(seed, quick)
    for path in filter(None, (out, svg, log)):
        require_writable(path)
    with _ended_by_signals(), _Progress(len(chosen)) as progress:
        performance = play(model, chosen, plan, progress.hear, log=log)
    write_text(out, page(performance))
    if svg is not None:
        write_text(svg, summary_figure(performance.results).render(standalone=True))
    found = findings(performance.results)
    _show(performance, found, as_json)
    click.echo(f"report: {out}", err=True)
    return ExitCode.OK if all(one.expected for one in found) else ExitCode.FAILED


def _modes(text: str) -> list[Mode]:
    """The modes named in `text`, each once, in the order given."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in MODES:
            raise click.BadParameter(
                f"{name!r} is not one of {', '.join(MODES)}", param_hint="--modes"
            )
    return [Mode(name) for name in names]


def _plan(seed: int, quick: bool) -> StoryPlan:
    return replace(StoryPlan.quick() if quick else StoryPlan(), seed=seed)


def _show(performance: Performance, found: list[Finding], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(performance.to_json()))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    console.print(table(performance.results))
    for one in found:
        mark = "✓" if one.expected else "✗"
        console.print(f"{mark} {one.sentence}", highlight=False, soft_wrap=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exit that still stops the servers."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    caught = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in caught]
    try:
        yield
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)


class _Progress:
    """A bar over all stages of all modes, on stderr; one line per stage where it is no terminal."""

    def __init__(self, modes: int) -> None:
        console = Console(stderr=True)
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=modes * len(Stage))
        self._done = -1
        self._now: tuple[Mode, Stage] | None = None

    def hear(self, mode: Mode, stage: Stage, done: int, of: int) -> None:
        """Show that `done` of at most `of` requests of this stage are through."""
        label = f"{mode.value}: {stage.value}"
        if self._now != (mode, stage):
            self._now = (mode, stage)
            self._done += 1
            if not self._console.is_terminal:
                self._console.print(label, highlight=False)
        self._bar.update(
            self._task,
            completed=self._done + done / of,
            description=f"{label} ({done + 1}/{of})",
        )

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
