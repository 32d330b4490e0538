from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from safekv.gateway.stops import StopCutter

LETTERS = st.text("ab¢", max_size=24)
STOPS = st.lists(st.text("ab¢", min_size=1, max_size=5), max_size=4)


def cut_whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: cut before the first stop string to be complete, the longer of two."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def cut_pieces(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    cutter, shown = StopCutter(stops), ""
    for piece in pieces:
        text, stopped = cutter.feed(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + cutter.flush(), False


@settings(deadline=None)
@given(st.lists(LETTERS, max_size=8), STOPS)
@example(["abcd"], ["abcd", "c"])
@example(["a", "b", "a", "b", "¢"], ["ab¢"])
def test_a_stream_is_cut_where_the_whole_text_is(pieces: list[str], stops: list[str]) -> None:
    assert cut_pieces(pieces, stops) == cut_whole("".join(pieces), stops)


@settings(deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=8), STOPS.filter(bool))
def test_what_is_shown_is_never_taken_back(pieces: list[str], stops: list[str]) -> None:
    whole, _ = cut_whole("".join(pieces), stops)
    cutter, shown = StopCutter(stops), ""
    for piece in pieces:
        text, stopped = cutter.feed(piece)
        shown += text
        assert whole.startswith(shown)
        if stopped:
            break


def test_text_that_begins_no_stop_is_not_held_back() -> None:
    cutter = StopCutter(["\n\n", "END"])
    assert cutter.feed("all of it") == ("all of it", False)
    assert cutter.feed("some E") == ("some ", False)
    assert cutter.feed("xit\n") == ("Exit", False)
    assert cutter.flush() == "\n"
    assert cutter.flush() == ""
