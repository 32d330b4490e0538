"""How well detectors do on labelled text, and how long they take: recall, precision, latency."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from safekv.detect.base import Detector, Document, Located
from safekv.detect.labelled import LabelledSpan, LabelledText
from safekv.types import Verdict

CHARACTERS_PER_TOKEN: Final = 4
"""What a token is taken for, so that figures do not depend on one model's tokenizer."""

BLOCK_TOKENS: Final = (16, 32, 64)
PROMPT_TOKENS: Final = 1000
"""Tokens in the documents that short texts are joined into, and what latencies are given for."""

OVERALL: Final = "ALL"

PUBLIC_KINDS: Final = frozenset(
    {"company", "corporation", "creative-work", "date", "date_time", "documentreference"}
    | {"domain_name", "event", "facility", "group", "gpe", "loc", "location", "militaryplatform"}
    | {"misc", "money", "nationality", "norp", "org", "organisation", "organization", "prefix"}
    | {"product", "quantity", "temporal", "title", "url", "weapon"}
)
"""Kinds of labels, in lower case, that do not make a block sensitive. All others do."""


class Measured(Protocol):
    """What can be measured: it judges blocks, without look-ahead, and says where."""

    def judge(self, document: Document) -> Sequence[Any]: ...

    def locate(self, text: str) -> Sequence[Located]: ...


@dataclass(slots=True)
class Score:
    """Right, missed and wrong."""

    hit: int = 0
    missed: int = 0
    right: int = 0
    wrong: int = 0

    def as_dict(self) -> dict[str, float | int | None]:
        recall = _ratio(self.hit, self.hit + self.missed)
        precision = _ratio(self.right, self.right + self.wrong)
        f1 = None
        if recall is not None and precision is not None:
            total = recall + precision
            f1 = round(2 * recall * precision / total, 4) if total else 0.0
        return {
            "recall": recall,
            "precision": precision,
            "f1": f1,
            "support": self.hit + self.missed,
        }


@dataclass(slots=True)
class Blocks:
    """Blocks of one size by whether they are sensitive and whether they were held back."""

    score: Score = field(default_factory=Score)
    clean: int = 0
    flagged: int = 0

    def count(self, sensitive: bool, held_back: bool) -> None:
        self.score.hit += sensitive and held_back
        self.score.missed += sensitive and not held_back
        self.score.right += sensitive and held_back
        self.score.wrong += held_back and not sensitive
        self.clean += not sensitive
        self.flagged += held_back and not sensitive

    def as_dict(self) -> dict[str, float | int | None]:
        figures = self.score.as_dict()
        return {key: figures[key] for key in ("recall", "precision", "f1")}


def evaluate(detector: Measured, texts: Sequence[LabelledText], split: str) -> dict[str, Any]:
    """Recall and precision by kind and by block, and false flags, as plain data.

    An entity counts as found when half of its characters are covered, whatever by; CoNLL
    words are an entity each. A finding is right when half of it is labelled; a kind has the
    precision of the texts that it occurs in. For blocks, texts are joined to documents of
    some 1,000 tokens, and a block is held back unless it is judged shareable.
    `false_flag_rate` is the share of 64-token blocks without a sensitive label that are
    held back. `decided_by` is the share of 16-token blocks that each stage decided: `clean`
    are those in which none found anything.
    """
    sizes = {tokens: Blocks() for tokens in BLOCK_TOKENS}
    deciders: Counter[str] = Counter()
    for document in joined(texts):
        deciders += _count_blocks(detector, document, sizes)
    widest = sizes[BLOCK_TOKENS[-1]]
    return {
        "split": split,
        "entity": {kind: score.as_dict() for kind, score in sorted(_entities(detector, texts))},
        "blocks": {str(tokens): blocks.as_dict() for tokens, blocks in sizes.items()},
        "false_flag_rate": _ratio(widest.flagged, widest.clean),
        "decided_by": {
            stage: _ratio(count, deciders.total()) for stage, count in sorted(deciders.items())
        },
    }


def latencies_us(stage: Detector, texts: Iterable[str]) -> dict[str, float | None]:
    """p50 and p99 of what judging 1,000 tokens as one block takes, in microseconds of one core.

    CPU time of this thread, so a stage must work in it. The best of three for each piece of
    the joined texts; one that is shorter is scaled up.
    """
    text = "\n".join(texts)
    size = PROMPT_TOKENS * CHARACTERS_PER_TOKEN
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    full = [piece for piece in pieces if len(piece) == size] or pieces[:1]
    measured = [_best_us(stage, piece) * size / len(piece) for piece in full]
    return {"p50": _percentile(measured, 0.5), "p99": _percentile(measured, 0.99)}


def joined(texts: Iterable[LabelledText]) -> Iterator[LabelledText]:
    """`texts` one behind the other, in documents of at least 1,000 tokens but the last."""
    text, spans = "", list[LabelledSpan]()
    for one in texts:
        text = f"{text}\n\n" if text else ""
        spans += (LabelledSpan(s.start + len(text), s.end + len(text), s.kind) for s in one.spans)
        text += one.text
        if len(text) >= PROMPT_TOKENS * CHARACTERS_PER_TOKEN:
            yield LabelledText(text, tuple(spans))
            text, spans = "", []
    if text:
        yield LabelledText(text, tuple(spans))


def is_sensitive(kind: str) -> bool:
    """Whether a label of this kind makes the block it touches sensitive."""
    return kind.lower() not in PUBLIC_KINDS


def _count_blocks(
    detector: Measured, document: LabelledText, sizes: dict[int, Blocks]
) -> Counter[str]:
    """Judges the smallest blocks; a larger one is held back when one of its parts is.

    Returns how many of the smallest each stage decided.
    """
    size = min(sizes) * CHARACTERS_PER_TOKEN
    ends = range(size, len(document.text) + 1, size)
    findings = detector.judge(Document(document.text, tuple(ends)))
    held_back = [finding.verdict is not Verdict.SHAREABLE for finding in findings]
    marked = _covered(
        ((s.start, s.end) for s in document.spans if is_sensitive(s.kind)), len(document.text)
    )
    sensitive = [any(marked[end - size : end]) for end in ends]
    for tokens, blocks in sizes.items():
        parts = tokens // min(sizes)
        for at in range(0, len(sensitive) - parts + 1, parts):
            blocks.count(any(sensitive[at : at + parts]), any(held_back[at : at + parts]))
    return Counter(_decider(finding.rule) for finding in findings)


def _decider(rule: str) -> str:
    """The stage that a finding's rule belongs to."""
    if rule == "clean":
        return rule
    stage = rule.partition("-")[0]
    return stage if stage in ("classifier", "judge") else "rules"


def _entities(detector: Measured, texts: Iterable[LabelledText]) -> Iterator[tuple[str, Score]]:
    scores: dict[str, Score] = {OVERALL: Score()}
    for one in texts:
        found = detector.locate(one.text)
        covered = _covered(((f.start, f.end) for f in found), len(one.text))
        labelled = _covered(((s.start, s.end) for s in one.spans), len(one.text))
        right = sum(_is_half(labelled, f.start, f.end) for f in found)
        kinds = {span.kind for span in one.spans}
        for kind in (OVERALL, *kinds):
            score = scores.setdefault(kind, Score())
            score.right += right
            score.wrong += len(found) - right
        for span in one.spans:
            hit = _is_half(covered, span.start, span.end)
            counted = (span.kind, OVERALL) if is_sensitive(span.kind) else (span.kind,)
            for kind in counted:
                scores[kind].hit += hit
                scores[kind].missed += not hit
    yield from scores.items()


def _covered(spans: Iterable[tuple[int, int]], size: int) -> bytearray:
    covered = bytearray(size)
    for start, end in spans:
        covered[start:end] = b"\x01" * (end - start)
    return covered


def _is_half(covered: bytearray, start: int, end: int) -> bool:
    return end > start and 2 * sum(covered[start:end]) >= end - start


def _best_us(stage: Detector, text: str) -> float:
    best = math.inf
    document = Document(text, (len(text),))
    for _ in range(3):
        before = time.thread_time_ns()
        stage.judge(document)
        best = min(best, (time.thread_time_ns() - before) / 1e3)
    return best


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percentile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None
