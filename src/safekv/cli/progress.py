"""Progress of what takes long, on stderr, so that stdout holds nothing but the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from safekv.engines.hf.store import Phase, Progress, Report


@contextmanager
def model_progress(name: str) -> Iterator[Report]:
    """Show what the yielded function hears: bars on a terminal, a line per phase elsewhere.

    Nothing is shown until the first report, so a model that is there already stays silent.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LineReport(console, name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _BarReport(bars, name)


class _LineReport:
    """Prints a line when the phase changes: for logs."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._phase: Phase | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.phase is not self._phase:
            self._phase = progress.phase
            self._console.print(f"{self._name}: {progress.phase.value}", highlight=False)


class _BarReport:
    """One bar per phase; the last phase's bar is complete when the next one begins."""

    def __init__(self, bars: Bars, name: str) -> None:
        self._bars = bars
        self._name = name
        self._phase: Phase | None = None
        self._task: TaskID | None = None

    def __call__(self, progress: Progress) -> None:
        if self._task is None or progress.phase is not self._phase:
            self._task = self._next_bar(progress.phase)
        total = progress.total_bytes or None
        self._bars.update(self._task, completed=progress.done_bytes, total=total)

    def _next_bar(self, phase: Phase) -> TaskID:
        if self._task is None:
            self._bars.console.print(self._name, highlight=False)
        else:
            self._bars.update(self._task, total=1, completed=1)
            self._bars.stop_task(self._task)
        self._phase = phase
        return self._bars.add_task(f"  {phase.value}", total=None)


@contextmanager
def step_progress(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show what the yielded function hears (steps done, steps in all, a note): for long runs.

    A bar on a terminal; elsewhere a line for every tenth of the way.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _TenthReport(console, name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(name, total=None, note="")
        yield lambda done, total, note: bars.update(task, completed=done, total=total, note=note)


class _TenthReport:
    """Prints a line at each tenth of the way: for logs."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._tenth = -1

    def __call__(self, done: int, total: int, note: str) -> None:
        tenth = 10 * done // max(1, total)
        if tenth != self._tenth:
            self._tenth = tenth
            self._console.print(f"{self._name}: {done} of {total} {note}".rstrip(), highlight=False)
