"""An audit's result as JSON, read back, and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safekv.audit.endpoint.effect import FALSE_POSITIVE_RATES
from safekv.audit.endpoint.judge import Finding, Verdict
from safekv.audit.endpoint.observation import CONTROL_SCOPES
from safekv.audit.endpoint.session import Outcome
from safekv.errors import ConfigError

DIGITS: Final = 4
SEEN: Final = {Verdict.LEAK: "seen", Verdict.NO_LEAK: "not seen", Verdict.INCONCLUSIVE: "not seen"}

Json = dict[str, Any]


def to_json(outcome: Outcome) -> Json:
    """The record: `verdict`, `findings` and `environment`. Holds no prompt and no key.

    Controls are no findings: they are in `environment`, with `seen` for a verdict.
    """
    findings = outcome.findings
    controls = [{**_cell(f), "verdict": SEEN[f.verdict]} for f in findings if _is_control(f)]
    adjusted = {_name(f): _rounded(f.p) for f in findings if not _is_control(f)}
    return {
        "verdict": outcome.verdict.value,
        "findings": [_cell(f) for f in findings if not _is_control(f)],
        "environment": {
            "reason": outcome.reason,
            **outcome.environment,
            "controls": controls,
            "adjusted_p": adjusted,
        },
    }


def _is_control(found: Finding) -> bool:
    return found.scope in CONTROL_SCOPES


def _name(found: Finding) -> str:
    return f"{found.scope.value}/{found.content.value}/{found.channel.value}"


def _cell(found: Finding) -> Json:
    size = found.effect
    rates = dict(zip(map(str, FALSE_POSITIVE_RATES), size.tpr_at_fpr or (), strict=False))
    return {
        "scope": found.scope.value,
        "content": found.content.value,
        "channel": found.channel.value,
        "verdict": found.verdict.value,
        "auc": _rounded(size.auc),
        "auc_ci": [_rounded(end) for end in size.auc_ci] if size.auc_ci else None,
        "tpr_at_fpr": {rate: _rounded(value) for rate, value in rates.items()} or None,
        "ks_p": _rounded(size.ks_p),
        "minimal_detectable_auc": _rounded(found.minimal_detectable_auc),
        "samples": found.samples,
    }


def _rounded(value: float | None) -> float | None:
    """Four significant digits, because p-values are small."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def load(path: Path) -> Json:
    """Read a record that `--json` wrote. Raises `ConfigError` for anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        cells = {_place(cell): cell["verdict"] for cell in record["findings"]}
        known = (
            record["verdict"] in {v.value for v in Verdict} and record["environment"] is not None
        )
    except (OSError, ValueError, LookupError, TypeError):
        known, cells = False, {}
    if not known or not cells:
        raise ConfigError(f"{path} holds no result of an audit", "write one with --json > FILE")
    return dict(record)


def _place(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(cell["scope"]), str(cell["content"]), str(cell["channel"])


def compare(before: Json, after: Json) -> Json:
    """Cell by cell: verdict and AUC before and after; `None` where a record lacks the cell."""
    old, new = ({_place(c): c for c in record["findings"]} for record in (before, after))
    cells = [
        {
            "scope": place[0],
            "content": place[1],
            "channel": place[2],
            **{
                f"{name}_{when}": (cells[place][name] if place in cells else None)
                for name in ("verdict", "auc")
                for when, cells in (("before", old), ("after", new))
            },
        }
        for place in sorted({*old, *new})
    ]
    verdicts = {"verdict_before": before["verdict"], "verdict_after": after["verdict"]}
    return {**verdicts, "cells": cells}
