"""Runs a plan, keeps each cell in a journal as soon as it is done, and goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safekv.attack.prompts import Prompt
from safekv.attack.public import PublicModel
from safekv.audit.stolen.measure import measure
from safekv.audit.stolen.plan import Plan
from safekv.audit.stolen.session import Session
from safekv.errors import ConfigError

Report = Callable[[int, int, str], None]
JOURNAL = "cells.jsonl"


def run(
    public: PublicModel,
    name: str,
    prompts: Sequence[Prompt],
    plan: Plan,
    out: Path,
    report: Report,
) -> list[dict[str, Any]]:
    """All cells of `plan`, in its order; those in the journal of `out` are not run again.

    A journal of another plan, model or set of prompts is refused with `ConfigError`: its numbers
    could not stand beside these. Keys are drawn anew for what was left to do.
    """
    texts = "\n".join(prompt.text for prompt in prompts)
    mark = plan.fingerprint(f"{name} {public.shapes}", texts)
    done = _journal(out, mark)
    cells = list(plan.cells())
    session: Session | None = None
    for n, cell in enumerate(cells):
        report(n, len(cells), cell.name)
        if cell.name in done:
            continue
        if session is None:
            session = Session(public, prompts, plan)
        done[cell.name] = measure(session, cell).as_json()
        _append(out, done[cell.name])
    report(len(cells), len(cells), "")
    return [done[cell.name] for cell in cells]


def _journal(out: Path, mark: str) -> dict[str, dict[str, Any]]:
    """The cells that are done. A line cut short by a crash is left out."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / JOURNAL
        if not path.exists():
            path.write_text(json.dumps({"plan": mark}) + "\n", encoding="utf-8")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot write the report to {str(out)!r}: {error}") from None
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) != len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    told = [_parsed(line) for line in whole]
    if not told or told[0].get("plan") != mark:
        raise ConfigError(
            f"{str(out / JOURNAL)!r} belongs to another plan, model or set of prompts",
            "name another directory, or delete that file",
        )
    return {one["cell"]: one for one in told[1:] if "cell" in one}


def _parsed(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {}


def _append(out: Path, one: Mapping[str, Any]) -> None:
    with (out / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps(one, ensure_ascii=False) + "\n")
