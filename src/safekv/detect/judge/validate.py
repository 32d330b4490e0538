"""Whether a language model can be a judge: its scores on labelled cases, as an AUROC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from safekv.detect.base import Document
from safekv.detect.evaluate import is_sensitive
from safekv.detect.judge.judge import Asked
from safekv.detect.judge.question import VERSION, question, score
from safekv.detect.judge.record import Record
from safekv.errors import ConfigError

_Z: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Case:
    """A text, asked about as one block, and whether it is private."""

    text: str = field(repr=False)
    private: bool


def read_cases(path: Path) -> tuple[list[Case], str]:
    """The cases of `path` and its SHA-256: JSON lines with `text` and `private` (or `spans`).

    Raises `ConfigError`, naming the line, for anything else, and when one kind is missing.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"labelled file {path} cannot be read ({type(error).__name__})", "give JSON lines"
        ) from error
    cases = [_case(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if len({case.private for case in cases}) < 2:
        raise ConfigError(
            f"labelled file {path} needs private cases and others", "add cases of both kinds"
        )
    return cases, hashlib.sha256(content).hexdigest()


def validate(
    model: Asked,
    cases: Sequence[Case],
    cases_sha256: str,
    timeout_s: float,
    report: Callable[[int, int], None],
) -> Record:
    """Asks `model` about every case. Raises `DetectorError` when one has no answer.

    The threshold is the lowest score of a private case: none of these would be cleared.
    """
    scores: list[float] = []
    for number, case in enumerate(cases):
        report(number, len(cases))
        asked = question(Document(case.text, (len(case.text),)), 0)
        scores.append(score(model.ask(asked, timeout_s)))
    report(len(cases), len(cases))
    return record_of(model.model, cases, scores, cases_sha256)


def record_of(
    model: str, cases: Sequence[Case], scores: Sequence[float], cases_sha256: str
) -> Record:
    """The record that these scores make."""
    private = [one for one, case in zip(scores, cases, strict=True) if case.private]
    others = [one for one, case in zip(scores, cases, strict=True) if not case.private]
    threshold = min(private)
    area = auroc(private, others)
    low, high = interval(area, len(private), len(others))
    return Record(
        model=model,
        question=VERSION,
        auroc=round(area, 4),
        auroc_low=round(low, 4),
        auroc_high=round(high, 4),
        threshold=threshold,
        private_cases=len(private),
        other_cases=len(others),
        missed=0.0,
        cleared=round(sum(one < threshold for one in others) / len(others), 4),
        cases_sha256=cases_sha256,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def auroc(private: Sequence[float], others: Sequence[float]) -> float:
    """The chance that a private case scores higher than another one; ties count half."""
    wins = sum((a > b) + 0.5 * (a == b) for a in private for b in others)
    return wins / (len(private) * len(others))


def interval(area: float, private: int, others: int) -> tuple[float, float]:
    """The 95 % interval of an AUROC by Hanley and McNeil's variance at the bound itself.

    Newcombe 2006, method 5: unlike the plain one it has a width where the area is 1.
    """

    def too_far(bound: float) -> bool:
        return abs(area - bound) > _Z * _deviation(bound, private, others)

    return _edge(0.0, area, too_far), _edge(1.0, area, too_far)


def _edge(outside: float, inside: float, too_far: Callable[[float], bool]) -> float:
    if not too_far(outside):
        return outside
    for _ in range(50):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if too_far(middle) else (outside, middle)
    return (outside + inside) / 2


def _deviation(area: float, private: int, others: int) -> float:
    mean = (private + others) / 2 - 1
    spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
    return float((area * (1 - area) * spread / (private * others)) ** 0.5)


def _case(path: Path, number: int, line: str) -> Case:
    try:
        item: Any = json.loads(line)
        text = item["text"]
        if "private" in item:
            private = item["private"]
        else:
            private = any(is_sensitive(str(span["type"])) for span in item["spans"])
        if not isinstance(text, str) or not text.strip() or not isinstance(private, bool):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}:{number}: not a case ({type(error).__name__})",
            'each line is {"text": "...", "private": true}, or has spans',
        ) from error
    return Case(text, private)
