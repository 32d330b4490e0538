"""Other people's detectors as stages: anything that says where it finds something in a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from safekv.detect.base import LOOK_AHEAD, UNREADABLE, Document, Finding, Located
from safekv.detect.folding import encodable
from safekv.types import Verdict

CLEAN = Finding(Verdict.SHAREABLE, "clean")

Find = Callable[[str], Iterable[tuple[int, int, str, float]]]
"""From a text to what was found: start, end, kind and confidence, in characters."""


class SpanDetector:
    """A stage made of a function that finds spans. Vetoes each block that one touches.

    Findings below `private_from` leave their blocks `UNSURE`. It may clear only as far as
    the function looked for everything: combine it with other stages.
    """

    def __init__(
        self, name: str, find: Find, *, private_from: float = 0.5, lookahead_chars: int = 64
    ) -> None:
        self.name = name
        self._find = find
        self._private_from = private_from
        self._lookahead_chars = lookahead_chars

    def locate(self, text: str) -> list[Located]:
        """What the function finds, ascending."""
        found = (
            Located(start, end, kind.lower(), self.name, round(min(1.0, max(0.0, score)), 4))
            for start, end, kind, score in self._find(text)
        )
        return sorted(found, key=lambda one: (one.start, one.end, one.kind))

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. Raises what the function raises."""
        if not document.block_ends:
            return []
        found = self.locate(document.text)
        seen_to = len(document.text) - self._lookahead_chars
        starts = (0, *document.block_ends[:-1])
        return [
            self._finding(document.text[start:end], found, start, end, end <= seen_to)
            for start, end in zip(starts, document.block_ends, strict=True)
        ]

    def _finding(
        self, text: str, found: Iterable[Located], start: int, end: int, seen: bool
    ) -> Finding:
        touching = [one for one in found if one.start < end and one.end > start]
        if touching:
            surest = max(touching, key=lambda one: one.confidence)
            private = surest.confidence >= self._private_from
            verdict = Verdict.PRIVATE if private else Verdict.UNSURE
            return Finding(verdict, f"{self.name}-{_label(surest.kind)}", surest.confidence)
        if start == end or "\ufffd" in text or any("\ud800" <= c <= "\udfff" for c in text):
            return UNREADABLE
        return CLEAN if seen else LOOK_AHEAD


def from_transformers(pipeline: Any, name: str = "transformers", **options: Any) -> SpanDetector:
    """Any Hugging Face token-classification pipeline as a stage.

    Make it with `aggregation_strategy="simple"` and a `stride` of at least 128, or text
    behind the model's window is not read.
    """

    def find(text: str) -> Iterable[tuple[int, int, str, float]]:
        for one in pipeline(encodable(text)) if text.strip() else ():
            kind = one.get("entity_group") or one["entity"]
            yield one["start"], one["end"], kind, float(one["score"])

    return SpanDetector(name, find, **options)


def from_presidio(analyzer: Any, name: str = "presidio", **options: Any) -> SpanDetector:
    """A Presidio `AnalyzerEngine` as a stage, for English text."""

    def find(text: str) -> Iterable[tuple[int, int, str, float]]:
        for one in analyzer.analyze(encodable(text), language="en"):
            yield one.start, one.end, one.entity_type, one.score

    return SpanDetector(name, find, **options)


def from_spacy(pipeline: Any, name: str = "spacy", **options: Any) -> SpanDetector:
    """A spaCy pipeline with named entities as a stage. spaCy gives no confidence: each is 1."""

    def find(text: str) -> Iterable[tuple[int, int, str, float]]:
        for one in pipeline(encodable(text)).ents:
            yield one.start_char, one.end_char, one.label_, 1.0

    return SpanDetector(name, find, **options)


def _label(kind: str) -> str:
    """`kind` as part of a rule's name: a label of metrics, so short and of few characters."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in kind.lower())
    return plain[:24].strip("-") or "span"
