"""Stage 1: rules and checksums over the decoded text of a prompt."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from safekv.detect.base import LOOK_AHEAD, UNREADABLE, Document, Finding, Located
from safekv.detect.config import DetectConfig
from safekv.detect.disguise import undone
from safekv.detect.normalise import UNDECODABLE, View, read_fully, read_lightly
from safekv.errors import ConfigError
from safekv.types import Verdict

if TYPE_CHECKING:
    from safekv.detect.matching import Gate, Hits, Rule

CLEAN: Final = Finding(Verdict.SHAREABLE, rule="clean")


Span = tuple[int, int]

_DOUBT: Final = re.compile(
    r"\b(?:example|sample|dummy|fake|fictional|placeholder|test|e\.g\.|such as)\b", re.IGNORECASE
)
_DOUBT_CHARACTERS: Final = 32
_DOUBT_FACTOR: Final = 0.7
"""What a word before a value that makes it look invented leaves of the confidence.

It never clears anything: such a value may be real all the same."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A text as rules see it, the same as bytes, and what may be in it."""

    view: View
    data: bytes = field(repr=False)
    hits: Hits


class RuleDetector:
    """Vetoes blocks in which a rule fires; clears the rest where enough text follows.

    What holds, with `lookahead_chars` of visible characters behind a block's end:

    * All text before is seen: what precedes a block can make it private, but never hides
      an identifier that starts in it.
    * An identifier that starts before the block's end, and lies with its context and
      one more character inside the look-ahead, makes the block private whatever follows.
    * So a `SHAREABLE` block becomes `PRIVATE` in a longer document only by a match, or
      a context word, that reaches behind the look-ahead, or by a rule for whole
      messages that fires later.

    A rule for whole messages makes all text private from the document's beginning to the
    end of the message in which it fires: a message may quote what ends another, so where
    it begins is not to be trusted, and where one begins no sharing would follow anyway.
    """

    name = "rules"

    def __init__(self, rules: Sequence[Rule], gate: Gate, lookahead_chars: int) -> None:
        """`gate` holds the patterns of `rules` in the same order."""
        self.rules = tuple(rules)
        self._gate = gate
        self._lookahead_chars = lookahead_chars

    @classmethod
    def from_config(cls, config: DetectConfig) -> RuleDetector:
        """The shipped rules and the operator's own, each tried on its examples.

        Raises `ConfigError` for a bad rule file or when the `detect` extra is missing.
        """
        try:
            from safekv.detect.ruleset import build_gate, load_rules
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"rule detection needs the package {error.name}", "pip install 'safekv[detect]'"
            ) from error
        rules = load_rules(config.extra_rulesets)
        return cls(rules, build_gate(rules), config.lookahead_chars)

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. O(characters); some 35 us per 4,000 clean ones.

        Raises `DetectorError` when the scan ran out of memory.
        """
        if not document.block_ends:
            return []
        reading = self._read(document.text)
        findings = self._clear(document, reading.view)
        if not reading.hits:
            return findings
        messages = _Messages(document)
        for rule, spans in self._spans(reading):
            private = Finding(Verdict.PRIVATE, rule.id, rule.confidence)
            if rule.whole_message:
                spans = messages.up_to(spans)
            for start, end in spans:
                _veto(findings, document.block_ends, start, end, private)
        return findings

    def locate(self, text: str) -> list[Located]:
        """Where rules fire in `text`, in characters, and which; ascending, may overlap.

        A rule for whole messages is found where it fires. Raises `DetectorError` when the
        scan ran out of memory.
        """
        found = [
            Located(start, end, rule.id, self.name, _doubted(text, start, rule.confidence))
            for rule, spans in self._spans(self._read(text))
            for start, end in spans
        ]
        return sorted(found, key=lambda one: (one.start, one.end, one.kind))

    def _spans(self, reading: _Reading) -> Iterator[tuple[Rule, Iterator[Span]]]:
        """Where each rule fires in the text as it stands, then where one does only in disguise."""
        for index in reading.hits.patterns:
            rule = self.rules[index]
            yield rule, _char_spans(rule.spans(reading.data), reading.data, reading.view)
        for seen in undone(reading.hits.disguises, reading.view.text):
            inner = self._read(seen.text)
            for index in inner.hits.patterns:
                rule = self.rules[index]
                spans = _char_spans(rule.spans(inner.data), inner.data, inner.view)
                yield (
                    rule,
                    (reading.view.span(*seen.span(*span)) for span in spans if seen.touches(*span)),
                )

    def _read(self, text: str) -> _Reading:
        """`text` normalised, the same as bytes, and the rules that may fire in it."""
        view = read_lightly(text)
        try:
            data = view.text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            hits = None
        else:
            hits = self._gate.hits_if_plain(data)
        if hits is None:
            view = read_fully(text)
            data = view.text.encode()
            hits = self._gate.hits(data)
        return _Reading(view, data, hits)

    def _clear(self, document: Document, view: View) -> list[Finding]:
        """What each block is when no rule fires."""
        ends = document.block_ends
        judged = bisect_right(ends, view.before_last(self._lookahead_chars))
        findings = [CLEAN] * judged + [LOOK_AHEAD] * (len(ends) - judged)
        unreadable = UNDECODABLE in view.text
        start = 0
        for i, end in enumerate(ends):
            # A block without text was never read, so nothing is known of its tokens.
            if start == end or (unreadable and self._is_unreadable(view, start, end)):
                findings[i] = UNREADABLE
            start = end
        return findings

    def _is_unreadable(self, view: View, start: int, end: int) -> bool:
        behind = view.index(end) + self._lookahead_chars
        return UNDECODABLE in view.text[view.index(start) : behind]


class _Messages:
    """Where the messages of a document end."""

    def __init__(self, document: Document) -> None:
        self._bounds = sorted({*document.message_starts, len(document.text)})

    def up_to(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """From 0 to the end of the last message that `spans` touch, nothing without one."""
        last = max((end for _, end in spans), default=0)
        if last:
            yield 0, self._bounds[bisect_left(self._bounds, last)]


def _doubted(text: str, start: int, confidence: float) -> float:
    """`confidence`, lowered where the words before `start` call the value an example."""
    before = text[max(0, start - _DOUBT_CHARACTERS) : start]
    return round(confidence * (_DOUBT_FACTOR if _DOUBT.search(before) else 1.0), 2)


def _veto(
    findings: list[Finding], ends: Sequence[int], start: int, end: int, private: Finding
) -> None:
    """Makes every block that `[start, end)` overlaps private, unless it is already."""
    first = bisect_right(ends, start)
    last = min(bisect_left(ends, end), len(ends) - 1)
    for i in range(first, last + 1):
        if findings[i].verdict is not Verdict.PRIVATE:
            findings[i] = private


def _char_spans(
    spans: Iterable[tuple[int, int]], data: bytes, view: View
) -> Iterator[tuple[int, int]]:
    """Ascending byte spans of `data` as character spans of the original text. O(data)."""
    at_byte = at_char = 0
    wide = len(data) != len(view.text)
    for start, end in spans:
        if not wide:
            yield view.span(start, end)
            continue
        first = at_char + len(data[at_byte:start].decode())
        at_byte, at_char = end, first + len(data[start:end].decode())
        yield view.span(first, at_char)
