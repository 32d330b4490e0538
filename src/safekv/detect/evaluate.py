"""How well stage 1 does on labelled text, and how long it takes: recall, precision, latency."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from safekv.detect.rules import RuleDetector
from safekv.errors import ConfigError

CHARACTERS: Final = 4000
"""What latencies are given for: about 1,000 tokens of English."""


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """Characters `[start, end)` that a person or a generator called `kind`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, and every span of it that is labelled. `group` is its template, where known."""

    text: str = field(repr=False)
    spans: tuple[LabelledSpan, ...] = ()
    group: str = ""


@dataclass(slots=True)
class Score:
    """Right, missed and wrong, in characters and in documents."""

    hit: int = 0
    missed: int = 0
    wrong: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        recall = _ratio(self.hit, self.hit + self.missed)
        precision = _ratio(self.hit, self.hit + self.wrong)
        f1 = None
        if recall is not None and precision is not None:
            f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        return {
            "recall": recall,
            "precision": precision,
            "f1": f1,
            "support": self.hit + self.missed,
        }


def read_labelled(path: Path) -> list[LabelledText]:
    """The texts of `path`: JSON lines or one JSON list with `text` and `spans`, or CoNLL.

    Spans have `start`, `end` and `type`; the field names of presidio-research are
    understood as well. Raises `ConfigError`, naming the line, for anything else.
    """
    try:
        content = path.read_text(encoding="utf-8")
        if ".conll" in path.name:
            return list(_conll(content))
        return [_record(path, number, item) for number, item in _items(content)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"labelled file {path} cannot be read ({type(error).__name__})",
            "give JSON lines with text and spans, or a .conll file",
        ) from error


def evaluate(detector: RuleDetector, texts: Sequence[LabelledText]) -> dict[str, Any]:
    """Recall by kind, precision over all, and latency, as plain data.

    Stage 1 does not say which kind it found, so a kind has the precision of the documents
    in which it occurs: what the detector covers there and no label does counts as wrong.
    A document counts as found when any of its labelled characters of that kind is.
    Latency is that of all texts joined and cut every 4,000 characters, the best of three.
    """
    characters: dict[str, Score] = {}
    documents: dict[str, Score] = {}
    whole, clean, flagged = Score(), 0, 0
    for labelled in texts:
        covered = _covered(detector.find(labelled.text), len(labelled.text))
        wrong = _count(labelled, covered, characters, documents, whole)
        if not labelled.spans:
            clean += 1
            flagged += bool(wrong)
    latencies = _latencies_us(detector, "\n".join(labelled.text for labelled in texts))
    return {
        "documents": len(texts),
        "characters": {kind: score.as_dict() for kind, score in sorted(characters.items())},
        "by_document": {kind: score.as_dict() for kind, score in sorted(documents.items())},
        "overall": whole.as_dict(),
        "false_flag_rate": _ratio(flagged, clean),
        "latency_us_per_4000_characters": {
            "p50": _percentile(latencies, 0.5),
            "p99": _percentile(latencies, 0.99),
        },
    }


def half_of(texts: Iterable[LabelledText], held_out: bool) -> list[LabelledText]:
    """One half of `texts`; all of one template fall into the same."""
    return [one for one in texts if _is_held_out(one) == held_out]


def _is_held_out(labelled: LabelledText) -> bool:
    return bool(crc32((labelled.group or labelled.text).encode(errors="replace")) & 1)


def _latencies_us(detector: RuleDetector, text: str) -> list[float]:
    """One figure per 4,000 characters; a shorter text is scaled up, a last piece left out."""
    pieces = [text[at : at + CHARACTERS] for at in range(0, len(text), CHARACTERS)]
    full = [piece for piece in pieces if len(piece) == CHARACTERS] or pieces[:1]
    return [_best_us(detector, piece) * CHARACTERS / len(piece) for piece in full]


def _best_us(detector: RuleDetector, text: str) -> float:
    best = math.inf
    for _ in range(3):
        before = time.perf_counter_ns()
        detector.find(text)
        best = min(best, (time.perf_counter_ns() - before) / 1e3)
    return best


def _covered(found: Iterable[tuple[int, int, str]], size: int) -> bytearray:
    covered = bytearray(size)
    for start, end, _ in found:
        covered[start:end] = b"\x01" * (end - start)
    return covered


def _count(
    labelled: LabelledText,
    covered: bytearray,
    characters: dict[str, Score],
    documents: dict[str, Score],
    whole: Score,
) -> int:
    """Adds one document to the scores, and returns how many characters were wrong."""
    truth = _covered(((s.start, s.end, s.kind) for s in labelled.spans), len(covered))
    wrong = sum(covered) - sum(a & b for a, b in zip(covered, truth, strict=True))
    hits: dict[str, int] = {}
    for span in labelled.spans:
        hit = sum(covered[span.start : span.end])
        hits[span.kind] = hits.get(span.kind, 0) + hit
        for score in (characters.setdefault(span.kind, Score()), whole):
            score.hit += hit
            score.missed += span.end - span.start - hit
    whole.wrong += wrong
    for kind, hit in hits.items():
        characters[kind].wrong += wrong
        score = documents.setdefault(kind, Score())
        score.hit += bool(hit)
        score.missed += not hit
        score.wrong += bool(wrong)
    return wrong


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percentile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def _items(content: str) -> Iterator[tuple[int, Any]]:
    if content.lstrip().startswith("["):
        yield from enumerate(json.loads(content), 1)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield number, json.loads(line)


def _record(path: Path, number: int, item: Any) -> LabelledText:
    try:
        text = item["text"] if "text" in item else item["full_text"]
        spans = tuple(_span(text, span) for span in item["spans"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: record {number} is not labelled text ({type(error).__name__})",
            'each record is {"text": "...", "spans": [{"start": 0, "end": 4, "type": "..."}]}',
        ) from error
    return LabelledText(text, spans, str(item.get("template_id", "")))


def _span(text: str, span: Mapping[str, Any]) -> LabelledSpan:
    start = span["start"] if "start" in span else span["start_position"]
    end = span["end"] if "end" in span else span["end_position"]
    if not 0 <= start <= end <= len(text):
        raise ValueError("the span lies outside the text")
    return LabelledSpan(start, end, str(span["type"] if "type" in span else span["entity_type"]))


def _conll(content: str) -> Iterator[LabelledText]:
    words: list[tuple[str, str]] = []
    for line in (*content.splitlines(), ""):
        parts = line.split()
        if len(parts) >= 2:
            words.append((parts[0], parts[-1]))
        elif not parts and words:
            yield _sentence(words)
            words = []


def _sentence(words: Iterable[tuple[str, str]]) -> LabelledText:
    text, spans = "", []
    for word, tag in words:
        start = len(text) + bool(text)
        text = f"{text} {word}" if text else word
        if tag != "O":
            spans.append(LabelledSpan(start, len(text), tag.partition("-")[2] or tag))
    return LabelledText(text, tuple(spans))
