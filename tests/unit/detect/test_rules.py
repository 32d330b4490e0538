"""What the rule detector makes of blocks, messages, look-ahead and unreadable text."""

from __future__ import annotations

from functools import cache

import pytest
import re2
from hypothesis import example, given
from hypothesis import strategies as st

from safekv.detect.base import Document
from safekv.detect.config import DetectConfig
from safekv.detect.matching import MAX_REJECTED, Gate, Reach, Rule
from safekv.detect.rules import RuleDetector
from safekv.detect.validators import is_card
from safekv.errors import DetectorError
from safekv.types import Verdict

P, S, U = Verdict.PRIVATE, Verdict.SHAREABLE, Verdict.UNSURE
LOOK = 12
RULES = (
    Rule("marker", "MARK", reach=Reach.MESSAGE),
    Rule("code", r"\bX\d{3,6}Y\b"),
    Rule("number", r"\b[2-9]\d{2}(?:[ -]\d{3}){1,2}\b", validate=lambda text: text[-1] == "7"),
)


def detector(rules: tuple[Rule, ...] = RULES, lookahead_chars: int = LOOK) -> RuleDetector:
    return RuleDetector(rules, Gate([rule.pattern for rule in rules]), lookahead_chars)


@cache
def small() -> RuleDetector:
    return detector()


@cache
def shipped() -> RuleDetector:
    return RuleDetector.from_config(DetectConfig())


def verdicts(document: Document, by: RuleDetector | None = None) -> list[Verdict]:
    return [found.verdict for found in (by or small()).judge(document)]


def rules(document: Document) -> list[str]:
    return [found.rule for found in small().judge(document)]


def test_a_span_makes_every_block_it_touches_private() -> None:
    document = Document("aaaa X12345Y aaaa" + "." * LOOK, (5, 8, 12, 17))
    assert verdicts(document) == [S, P, P, S]
    assert rules(document) == ["clean", "code", "code", "clean"]


def test_text_behind_the_last_block_is_looked_at() -> None:
    assert verdicts(Document("aaaaa X12345Y aaaaaaaaaaaaaaaa", (5,))) == [S]
    assert verdicts(Document("aaaaa X12345Y aaaaaaaaaaaaaaaa", (7,))) == [P]
    assert verdicts(Document("aaaaa MARK aaaaaaaaaaaaaaaaaaa", (5,))) == [P]


def test_a_marker_makes_all_private_up_to_the_end_of_its_message() -> None:
    text = "first...second MARK..third..." + "." * LOOK
    document = Document(text, (4, 8, 12, 16, 19, 21, 25, 29), (0, 8, 21))
    assert verdicts(document) == [P, P, P, P, P, P, S, S]
    assert rules(document)[0] == "marker"


def test_a_token_typed_into_a_message_saves_nothing_before_the_marker() -> None:
    text = "roadmap: ...<|im_end|>.... MARK....." + "." * LOOK
    cut = text.index("<|im_end|>") + len("<|im_end|>")
    assert verdicts(Document(text, (4, 12, cut, cut + 9), (0, cut))) == [P, P, P, P]


def test_the_last_marker_decides() -> None:
    text = "MARK aaa" * 3 + "." * LOOK
    assert verdicts(Document(text, (8, 16, 24), (0, 8, 16))) == [P, P, P]
    assert verdicts(Document("MARK aaa" + "." * 28, (8, 16, 24), (0, 8, 16))) == [P, S, S]


def test_a_match_across_two_messages_covers_both() -> None:
    text = "aaaMARKaaaaa" + "." * LOOK
    assert verdicts(Document(text, (2, 5, 6, 7, 9), (0, 5))) == [P, P, P, P, P]


def test_a_block_in_two_messages_takes_the_stricter() -> None:
    text = "first...second MARK..third..." + "." * LOOK
    assert verdicts(Document(text, (10, 25, 29), (0, 8, 21))) == [P, P, S]
    assert verdicts(Document(text, (7, 23, 29), (0, 8, 21))) == [P, P, S]


@pytest.mark.parametrize(("behind", "verdict"), [(LOOK - 1, U), (LOOK, S)])
def test_only_a_full_look_ahead_clears(behind: int, verdict: Verdict) -> None:
    document = Document("aaaa" + "b" * behind, (4,))
    assert verdicts(document) == [verdict]
    assert rules(document) == ["clean" if verdict is S else "look-ahead"]


def test_invisible_characters_are_no_look_ahead() -> None:
    assert verdicts(Document("aaaa" + "\u200b" * 99 + "b" * (LOOK - 1), (4,))) == [U]
    assert verdicts(Document("aaaa" + "\u200b" * 99 + "b" * LOOK, (4,))) == [S]


def test_fewer_visible_characters_than_the_look_ahead_clear_nothing() -> None:
    assert verdicts(Document("\u200b" * 20 + "b" * (LOOK - 1), (10,))) == [U]


def test_ligatures_do_not_stretch_the_look_ahead() -> None:
    assert verdicts(Document("aaaa" + "ﷺ" * (LOOK - 1), (4,))) == [U]


def test_without_look_ahead_every_block_is_judged() -> None:
    assert verdicts(Document("aaaa", (2, 4)), detector(lookahead_chars=0)) == [S, S]
    assert verdicts(Document("aaaé\u200b", (2, 5)), detector(lookahead_chars=0)) == [S, S]


@pytest.mark.parametrize(("at", "expected"), [(1, U), (4, U), (4 + LOOK - 1, U), (4 + LOOK, S)])
def test_what_did_not_decode_clears_nothing_near(at: int, expected: Verdict) -> None:
    text = "a" * at + "\ufffd" + "a" * 40
    assert verdicts(Document(text, (4,))) == [expected]
    assert verdicts(Document(text.replace("\ufffd", "\udc80"), (4,))) == [expected]


def test_what_did_not_decode_is_named() -> None:
    assert rules(Document("aa\ufffda" + "b" * LOOK, (4,))) == ["undecodable"]


def test_a_block_without_text_is_not_cleared() -> None:
    assert verdicts(Document("aaaa" + "b" * LOOK, (0, 4, 4))) == [U, S, U]
    assert verdicts(Document("X12345Y" + "." * LOOK, (4, 4, 7)))[1] is P


def test_spans_lead_back_to_the_original_text() -> None:
    text = "éé\u200bﬁﬁ X1\u200b2\u200b3４５Y éé" + "." * LOOK
    start, end = text.index("X"), text.index("Y") + 1
    document = Document(text, (start, end, end + 2))
    assert verdicts(document) == [S, P, S]


def test_no_blocks_no_findings() -> None:
    assert small().judge(Document("", ())) == []
    assert small().judge(Document("X12345Y", ())) == []


def test_a_million_characters_are_judged() -> None:
    for unit in ("a", "1", "１", "\u200b", "1 ", "4111 ", "DE89 "):
        text = (unit * 1_000_000)[:1_000_000]
        assert len(shipped().judge(Document(text, tuple(range(4000, 1_000_001, 4000))))) == 250


def test_a_rejected_number_hides_no_shorter_and_no_later_one() -> None:
    for text in ("222 337 999", "999 222 337", "222 222 337 999"):
        assert P in verdicts(Document(text + "." * LOOK, (len(text),)))


def test_too_many_rejected_numbers_are_private_from_there() -> None:
    text = "222 221 " * (MAX_REJECTED // 2)
    found = verdicts(Document(text, (8, len(text) - 100)))
    assert found == [S, P]


class OutOfMemory:
    """RE2's answer when its states do not fit: the same as for no match."""

    def Match(self, data: bytes) -> None:  # noqa: N802 - re2's spelling
        return None


def test_a_scan_out_of_memory_is_an_error_and_not_clean() -> None:
    exhausted = detector()
    exhausted._gate._set = OutOfMemory()
    with pytest.raises(DetectorError, match="out of memory"):
        exhausted.judge(Document("aaaa" + "b" * LOOK, (4,)))


def test_patterns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(re2.error):
        Gate(["a{1000}"], 1 << 14)


def test_context_is_needed_near_the_match() -> None:
    assert not shipped_finds("021000021")
    assert shipped_finds("routing 021000021")
    assert shipped_finds("021000021 is my routing number")
    assert not shipped_finds("routing" + " far" * 20 + " 021000021")


def shipped_finds(text: str) -> bool:
    return P in verdicts(Document(text + "." * 80, (len(text),)), shipped())


def test_reprs_hold_no_text() -> None:
    assert "4111" not in repr(Document("4111 1111 1111 1111", (4,)))
    assert is_card("4111 1111 1111 1111")


NOISE = st.text("23479 -XY.\n", max_size=40)


@given(NOISE, st.lists(st.integers(1, 5), min_size=1, max_size=6), NOISE, NOISE)
@example("222 337", [3], " 777", ".222 337")
def test_text_behind_the_look_ahead_changes_nothing(
    head: str, cuts: list[int], one: str, other: str
) -> None:
    """Rules whose matches are shorter than the look-ahead, none for whole messages."""
    bounded = detector(RULES[1:])
    ends = tuple(end for end in (sum(cuts[: i + 1]) for i in range(len(cuts))) if end <= len(head))
    if not ends:
        return
    shared = head[: ends[-1]].ljust(ends[-1], ".") + (head[ends[-1] :] + "." * LOOK)[:LOOK]
    worlds = [verdicts(Document(shared + tail, ends), bounded) for tail in (one, other)]
    assert worlds[0] == worlds[1]


@given(NOISE, NOISE, st.integers(1, 7), st.sampled_from(["X12345Y", "222 337", "X777Y"]))
def test_an_identifier_inside_the_look_ahead_is_found(
    before: str, after: str, inside: int, identifier: str
) -> None:
    """It starts before the block's end, and whatever stands around it does not matter."""
    text = f"{before}\n{identifier}\n{after}"
    end = len(before) + 1 + min(inside, len(identifier))
    assert verdicts(Document(text, (end,))) == [P]


@given(NOISE, NOISE)
def test_more_text_never_clears_a_private_message(before: str, after: str) -> None:
    document = Document(f"{before}MARK{after}", (len(before) + 4,))
    assert verdicts(document) == [P]
