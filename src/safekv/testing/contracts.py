"""What every plug-in promises, as test classes that its author runs.

Subclass the contract in a test file, return your own from the one abstract method, and
let pytest collect it. Nothing here needs pytest itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from safekv.detect.base import Detector, Document, Finding
from safekv.types import Verdict

_PROSE = "The committee met again and agreed that the old bridge should be painted. "
_WIDE = "Ünïcödé 漢字かな 한국어 עברית हिन्दी 👩‍👩‍👧 ﬁ ①\u200b\u202e\u0301\ufffd\x00 "


class DetectorContract(ABC):
    """The promises of `safekv.detect.base.Detector`.

    `private_texts` are texts in which the detector under test must veto a block, and
    `shareable_texts` texts of which it must clear every block; both may stay empty.
    """

    private_texts: ClassVar[Sequence[str]] = ()
    shareable_texts: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def detector(self) -> Detector:
        """A detector ready to judge. May be the same one each time."""

    def test_has_a_name(self) -> None:
        assert self.detector().name

    def test_one_finding_per_block(self) -> None:
        for document in self._documents():
            findings = self._judge(document)
            assert len(findings) == len(document.block_ends)
            assert all(isinstance(found.verdict, Verdict) for found in findings)
            assert all(0.0 <= found.confidence <= 1.0 for found in findings)

    def test_every_finding_names_its_rule(self) -> None:
        for document in self._documents():
            for found in self._judge(document):
                assert found.rule
                # A rule is a label in metrics: short, and never a piece of the prompt.
                assert len(found.rule) <= 64
                assert found.rule.isprintable()

    def test_no_blocks_give_no_findings(self) -> None:
        assert self._judge(Document("", ())) == []
        assert self._judge(Document(_PROSE, ())) == []

    def test_blocks_without_text_are_not_shareable(self) -> None:
        assert not self._clears_any(Document("", (0, 0)))

    def test_says_the_same_twice(self) -> None:
        for document in self._documents():
            assert self._judge(document) == self._judge(document)

    def test_remembers_nothing_between_documents(self) -> None:
        one = self.detector()
        documents = list(self._documents())
        alone = [list(one.judge(document)) for document in documents]
        backwards = [list(one.judge(document)) for document in reversed(documents)]
        assert alone == backwards[::-1]

    def test_does_not_mind_wide_characters(self) -> None:
        text = _WIDE * 20
        # One block per character, so that every boundary falls somewhere awkward.
        assert len(self._judge(Document(text, tuple(range(1, len(text) + 1))))) == len(text)

    def test_does_not_mind_half_a_surrogate_pair(self) -> None:
        assert not self._clears_any(Document("\ud83d" * 200, (50, 100)))

    def test_judges_long_texts(self) -> None:
        for unit in ("a", "1", "\n", "é", _PROSE):
            text = (unit * 200_000)[:200_000]
            assert len(self._judge(_cut(text, 4000))) == 50

    def test_vetoes_what_it_claims_to_find(self) -> None:
        for text in self.private_texts:
            document = _cut(f"{_PROSE}\n{text}\n{_PROSE * 20}", 32)
            verdicts = [found.verdict for found in self._judge(document)]
            assert Verdict.PRIVATE in verdicts

    def test_clears_what_it_claims_to_clear(self) -> None:
        for text in self.shareable_texts:
            found = self._judge(Document(text + "\n" + _PROSE * 40, (len(text),)))
            assert [f.verdict for f in found] == [Verdict.SHAREABLE]

    def _judge(self, document: Document) -> list[Finding]:
        return list(self.detector().judge(document))

    def _clears_any(self, document: Document) -> bool:
        """Whether any block is shareable. An exception is no opinion, so it clears none."""
        try:
            findings = self._judge(document)
        except Exception:
            return False
        return any(found.verdict is Verdict.SHAREABLE for found in findings)

    def _documents(self) -> Iterator[Document]:
        yield Document("", ())
        for text in ("x", _PROSE, _PROSE * 30, _WIDE * 5, *self.private_texts):
            yield _cut(text, 16)
            yield _cut(text, 100)


def _cut(text: str, block_chars: int) -> Document:
    """`text` in full blocks of `block_chars`, the rest behind them; messages of two blocks."""
    ends = range(block_chars, len(text) + 1, block_chars)
    return Document(text, tuple(ends), tuple(range(0, len(text) + 1, 2 * block_chars)))
