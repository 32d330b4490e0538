"""Text that looks the same reads the same, and every offset leads back."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.detect.folding import exotic_class, fold, mark_class
from safekv.detect.matching import Gate
from safekv.detect.normalise import normalise, read_fully, read_lightly

AWKWARD = st.text(
    st.one_of(
        st.sampled_from(
            '\\\\%"/nrt20u\ra·\u2212&;<|>😀\u094d\u0e48…\u200d，'
            "é１٣\u200b\u202e\u00ad\u0301\u0316ﬁ①ﷺ—“\u00a0\ufffd\ufe0f한\u1161\u11a8e \n"
        ),
        st.characters(),
        st.characters(codec="ascii"),
    ),
    max_size=60,
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("plain", "plain"),
        ("４１１１", "4111"),
        ("٤١١١", "4111"),
        ("41\u200b11\u00ad 1\u20601", "4111 11"),
        ("\u202eabc\u202c", "abc"),
        ("e\u0301", "é"),
        ("ﬁx", "fix"),
        ("a—b–c‐d", "a-b-c-d"),
        ("“x” ‘y’", "\"x\" 'y'"),
        ("a\u00a0b\u3000c", "a b c"),
        ("ｊａｎｅ＠ｅｘ．ｏｒｇ", "jane@ex.org"),
        ("\ud83d!", "\ufffd!"),
        ("a\r\nb\rc", "a\n\nb\nc"),
        (r"a\nb\r\tc", "a b  c"),
        (r"{\"a\": \\\"b\\\"}", '{"a": "b"}'),
        (r"4\u00a01\u2212\u200b1\u0000", "4 1-1 "),
        (r"\ud83d C:\dir \x", r"\ud83d C:\dir \x"),
        ("a%20b%40c%3D%0d", "a b@c= "),
        ("100% %d %4d %zz%", "100% %d %4d %zz%"),
        ("１\u2212２·３\\n４", "1-2.3 4"),
        ("＼n％20", "  "),
        ("a%2Cb%5Bc%C3%A9%7D%5d %2d %e2", "a,b[cé}%5d %2d %e2"),
        ("a&amp;b&#64;c&#x2d;d&nbsp;&foo;", "a&b@c-d &foo;"),
        ("<|im_end|>a<｜User｜>b[INST]c</s>d<start_of_turn>", "\na\nb\nc\nd\n"),
        ("x <| y |> z [1] <b>", "x <| y |> z [1] <b>"),
        ("wait…\u200d🙂\ufe0f", "wait...🙂"),
        ("क्या", "क्या"),
    ],
)
def test_reads_as(text: str, read: str) -> None:
    assert normalise(text).text == read


def test_what_vanishes_keeps_its_place() -> None:
    view = normalise("a\u200b\u200bb")
    assert view.text == "ab"
    assert view.span(0, 1) == (0, 1)
    assert view.span(1, 2) == (3, 4)
    assert [view.index(i) for i in range(5)] == [0, 1, 1, 1, 2]


def test_what_joins_maps_to_all_its_characters() -> None:
    view = normalise("e\u0301\u0316x")
    assert view.span(0, 1) == (0, 3)
    assert view.index(3) == len(view.text) - 1


def test_an_escape_maps_to_all_its_characters() -> None:
    view = normalise(r"a\n\\nb%20")
    assert view.text == "a  b "
    assert [view.span(i, i + 1) for i in range(5)] == [(0, 1), (1, 3), (3, 6), (6, 7), (7, 10)]


def test_text_without_escapes_keeps_no_offsets() -> None:
    assert all(normalise(text).moving is None for text in ("plain", "50 % of C:\\dir", "a\r\nb"))


def test_a_run_of_backslashes_is_read_in_linear_time() -> None:
    assert normalise("\\" * 1_000_000 + "n").text.endswith("\\ ")


def test_what_grows_maps_to_one_character() -> None:
    view = normalise("aﬁb")
    assert view.span(2, 3) == (1, 2)
    assert view.span(0, 4) == (0, 3)


@given(AWKWARD)
def test_offsets_rise_and_lie_inside(text: str) -> None:
    view = normalise(text)
    behind = 0
    for i in range(len(view.text)):
        start, end = view.span(i, i + 1)
        assert 0 <= start < end <= len(text)
        assert start >= behind or view.span(i - 1, i) == (start, end)
        behind = end


@given(AWKWARD)
def test_only_invisible_characters_have_no_image(text: str) -> None:
    view = normalise(text)
    seen = {j for i in range(len(view.text)) for j in range(*view.span(i, i + 1))}
    lost = {c for j, c in enumerate(text) if j not in seen}
    assert all(normalise(c).text == "" for c in lost)


@given(AWKWARD)
def test_span_and_index_agree(text: str) -> None:
    view = normalise(text)
    for offset in range(len(text) + 1):
        first = view.index(offset)
        assert all(view.span(i, i + 1)[0] < offset for i in range(first))
        assert all(view.span(i, i + 1)[0] >= offset for i in range(first, len(view.text)))


@given(st.text(max_size=40))
def test_reads_a_piece_as_in_the_whole(text: str) -> None:
    assert normalise(f"{text}\nx").text == f"{normalise(text).text}\nx"


@given(AWKWARD)
def test_can_be_encoded_and_holds_nothing_invisible(text: str) -> None:
    read = normalise(text).text
    read.encode()
    assert not any(unicodedata.category(c) == "Cf" for c in read)


@given(AWKWARD)
def test_repr_holds_no_text(text: str) -> None:
    assert repr(normalise("secret" + text)) == "View()"


def test_many_marks_on_one_letter_are_read_in_linear_time() -> None:
    # NFKC sorts marks quadratically: without a bound this one would run for an hour.
    text = "a" + "\u0301\u0316" * 200_000
    assert normalise(text).text.startswith("á")


@pytest.mark.parametrize(
    "text", ["\\" + "n", "%20", "&amp;", "<|x|>", "…", "’", "é", "\u0301", "x"]
)
def test_what_is_not_exotic_folds_to_itself(text: str) -> None:
    assert read_lightly(text).text == read_fully(text).text or plain_hits(text) is None


def test_no_character_that_folds_to_another_passes_as_plain() -> None:
    plain = re.compile(f"[^{exotic_class()}\ud800-\udfff]")
    assert [c for c in map(chr, range(0x80, 0x110000)) if plain.match(c) and fold(c) != c] == []
    assert mark_class()


@given(AWKWARD)
def test_the_fast_reading_is_right_or_says_that_it_is_not(text: str) -> None:
    hits = plain_hits(text)
    assert hits is None or read_lightly(text).text == read_fully(text).text
    assert normalise(text).text == read_fully(text).text


GATE = Gate(["no such text"])


def plain_hits(text: str) -> list[int] | None:
    try:
        return GATE.hits_if_plain(read_lightly(text).text.encode())
    except UnicodeEncodeError:
        return None


@given(AWKWARD, st.integers(0, 8))
def test_the_end_alone_tells_what_the_whole_tells(text: str, characters: int) -> None:
    view = normalise(text * 3)
    behind = len(view.text) - characters
    expected = len(text * 3) - characters
    if behind < 0:
        assert view.before_last(characters) < 0
        return
    if characters:
        expected = min(expected, view.span(behind, behind + 1)[0])
    assert view.before_last(characters) == expected
