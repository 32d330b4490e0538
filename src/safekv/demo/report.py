"""The demo's results for people: a table in the terminal, and files."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from rich.table import Table

from safekv.demo.findings import Results
from safekv.demo.result import ModeResult
from safekv.errors import ConfigError

COLUMNS: Final = (
    "mode",
    "hit rate",
    "median first-turn TTFT",
    "p95 TTFT",
    "attacker's AUC",
    "secret recovered",
)


def row(result: ModeResult) -> tuple[str, ...]:
    """One mode's cells, in the order of `COLUMNS`."""
    low, high = result.times.auc_interval
    return (
        result.mode.value,
        f"{result.honest.hit_rate:.0%}",
        f"{result.first_turn_median_s * 1000:.0f} ms",
        f"{result.p95_s * 1000:.0f} ms",
        f"{result.times.auc:.2f} ({low:.2f} to {high:.2f})",
        _recovered(result),
    )


def _recovered(result: ModeResult) -> str:
    secrets = (("card", result.card), ("project", result.project))
    found = [f"{name} after {g.guesses}" for name, g in secrets if g.recovered]
    if not found:
        wrong = f"; wrong claims: {result.wrong_claims}" if result.wrong_claims else ""
        return f"no ({result.guesses} guesses{wrong})"
    yes = "yes" if result.card.recovered else "in part"
    return f"{yes} ({', '.join(found)} guesses)"


def table(results: Results) -> Table:
    """One line per mode."""
    shown = Table(
        title="What sharing a prefix cache saves, and what it leaks", title_justify="left"
    )
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("mode", "secret recovered") else "right")
    for result in results.values():
        shown.add_row(*row(result))
    return shown


def require_writable(path: Path) -> None:
    """Raise `ConfigError` unless a file could be put at `path`; checked before long work."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}", "name a file in a directory that you may write")


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step. Raises `ConfigError` when that is impossible."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes private files; a report is for everybody whom the umask lets read.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"cannot write {path}: {reason}", "name another file") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
