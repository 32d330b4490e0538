"""Hidden values are found where they stand, and innocent text that looks alike is left alone."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.detect.adversarial import VALUES, adversarial_set
from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.disguise import DISGUISES, NAMES, undone
from safekv.detect.labelled import LabelledText
from safekv.detect.rules import RuleDetector
from safekv.types import Verdict

OPEN = {"split-over-turns"}
"""Tricks that stage 1 does not see through; the set keeps them so that nobody forgets."""


@cache
def shipped() -> RuleDetector:
    return RuleDetector.from_config(DetectConfig(lookahead_chars=0))


def names(texts: list[LabelledText]) -> list[str]:
    return [f"{one.spans[0].kind if one.spans else 'innocent'}-{i}" for i, one in enumerate(texts)]


SET = adversarial_set()


@pytest.mark.parametrize("one", SET, ids=names(SET))
def test_the_adversarial_set(one: LabelledText) -> None:
    found = shipped().locate(one.text)
    if not one.spans:
        assert found == []
        return
    covered = {i for each in found for i in range(each.start, each.end)}
    (span, *_) = one.spans
    hit = sum(i in covered for i in range(span.start, span.end))
    assert (2 * hit >= span.end - span.start) == (span.kind not in OPEN)
    for each in found:
        assert span.start - 2 <= each.start < each.end <= span.end + 2


def test_the_set_has_every_value_plain_somewhere() -> None:
    assert all(any(value in one.text for one in SET) for _, value in VALUES.values())


def test_a_hidden_value_makes_only_its_own_blocks_private() -> None:
    hidden = "NDExMSAxMTExIDExMTEgMTExMQ=="
    text = f"My card number, encoded, is {hidden} and that is all there is to say."
    start, end = text.index(hidden), text.index(hidden) + len(hidden)
    findings = shipped().judge(Document(text, (start, end, len(text))))
    assert [f.verdict for f in findings] == [Verdict.SHAREABLE, Verdict.PRIVATE, Verdict.SHAREABLE]


def test_two_disguised_values_keep_their_places() -> None:
    text = "mail jаne@exаmple.org, then plain ada@example.org, then bоb@example.org"
    found = {(one.start, one.end) for one in shipped().locate(text) if one.kind == "email"}
    assert found == {(5, 21), (34, 49), (56, 71)}


def test_words_before_a_value_lower_the_confidence_and_clear_nothing() -> None:
    plain = shipped().locate("the card 4111 1111 1111 1111")
    doubted = shipped().locate("for example 4111 1111 1111 1111")
    assert 0 < doubted[0].confidence < plain[0].confidence <= 1
    (finding,) = shipped().judge(Document("for example 4111 1111 1111 1111", (31,)))
    assert finding.verdict is Verdict.PRIVATE


@given(st.text(alphabet="аеA1lO0 4.Qx@=Zz9w-", max_size=60), st.sampled_from(NAMES))
def test_offsets_lead_back_into_the_text(text: str, name: str) -> None:
    seen = DISGUISES[name].undone(text)
    if seen is None:
        return
    assert seen.text != text
    for start in range(len(seen.text)):
        for end in range(start + 1, min(start + 6, len(seen.text)) + 1):
            first, last = seen.span(start, end)
            assert 0 <= first < last <= len(text)
            if not seen.touches(start, end):
                assert text[first:last] == seen.text[start:end]


@pytest.mark.parametrize("unit", ["а1", "O0", "h4x ", "a ", "QUJD9zZ", "QUJDZZ=", "1l "])
def test_long_disguised_runs_end_soon(unit: str) -> None:
    text = (unit * 50_000)[:100_000]
    assert len(shipped().judge(Document(text, (50_000, 100_000)))) == 2


def test_nothing_is_undone_in_plain_text() -> None:
    assert undone(NAMES, "the old bridge was painted in winter by the committee") == []
