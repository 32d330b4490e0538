"""One spelling for text that looks the same, with the way back to the original offsets."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias

from safekv.detect.escapes import (
    LONGEST,
    PERCENT,
    SPELLINGS,
    Readings,
    kinds_in,
    pattern_of,
    substituted,
)
from safekv.detect.folding import COMMON, UNDECODABLE, exotic_class, fold, joins, mark_class

__all__ = ["UNDECODABLE", "View", "normalise", "read_fully", "read_lightly"]

_MARKS_PER_LETTER: Final = 31
"""As in Unicode's stream-safe format: more marks on one letter make NFKC quadratic."""

_COMMON: Final = tuple((c, fold(c)) for c in COMMON)

_Offsets: TypeAlias = "tuple[array[int], array[int]]"


@dataclass(slots=True)
class View:
    """A text as rules read it: NFKC, ASCII digits, dashes and quotes, no escapes.

    `spelt` has the length of the original, and `text` is what it becomes when each piece
    that `moving` finds is read; where `moving` is None the two are equal. Offsets count
    characters. They are worked out, O(n), the first time that one is asked for.
    """

    text: str = field(repr=False)
    spelt: str = field(repr=False)
    moving: re.Pattern[str] | None = field(default=None, repr=False)
    _offsets: _Offsets | None = field(default=None, init=False, repr=False, compare=False)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original span that covers `text[start:end]`, which must not be empty."""
        if self.moving is None:
            return start, end
        starts, ends = self._mapped(self.moving)
        return starts[start], ends[end - 1]

    def index(self, offset: int) -> int:
        """How many characters of `text` begin before `offset` of the original."""
        return offset if self.moving is None else bisect_left(self._mapped(self.moving)[0], offset)

    def before_last(self, characters: int) -> int:
        """The last offset behind which that many of the original and of `text` begin.

        Negative when there is none. Looks at the end of the text alone where it can.
        """
        if len(self.text) < characters:
            return -1
        last = len(self.spelt) - characters
        moving = self.moving
        if (
            moving is None
            or not characters
            or not moving.search(self.spelt, max(0, last - LONGEST))
        ):
            return last
        # No piece but one that starts there holds such a character: what lies behind it is
        # read alone.
        outside = "ois " if moving is PERCENT else " "
        before = max(0, last - 7 * characters)
        blank = max(self.spelt.rfind(c, 0, before) for c in outside)
        starts = _offsets(self.spelt[blank:], moving)[0] if blank > 0 else array("I")
        if len(starts) >= characters:
            return min(last, blank + starts[len(starts) - characters])
        return min(last, self._mapped(moving)[0][len(self.text) - characters])

    def _mapped(self, moving: re.Pattern[str]) -> _Offsets:
        if self._offsets is None:
            self._offsets = _offsets(self.spelt, moving)
        return self._offsets


def normalise(text: str) -> View:
    """The view of `text` that rules match against.

    Format characters (zero-width, bidi, soft hyphen) and variation selectors vanish;
    decimal digits of every script, dashes and quotes become ASCII. Escapes of JSON, URLs
    and HTML that stand for blanks or marks are undone, as logs and quoted requests hold
    them; a chat template's special token and CR are line breaks. At most 31 combining
    marks are composed with the letter before them. O(n).
    """
    view = read_lightly(text)
    return read_fully(text) if _is_exotic(view.text) else view


def read_lightly(text: str) -> View:
    """`normalise(text)`, but for exotic characters: right if none is left in the view.

    A few microseconds per 4,000 characters, as only common characters are looked for.
    """
    text = text.replace("\r", "\n")
    if not text.isascii():
        for c, twin in _COMMON:
            if c in text:
                text = text.replace(c, twin)
    kinds = kinds_in(text)
    if not kinds:
        return View(text, text)
    return _view(text, pattern_of(kinds))


def read_fully(text: str) -> View:
    """`normalise(text)` for any text. Some 200 us per 4,000 characters that are not ASCII."""
    text = text.replace("\r", "\n")
    alphabet = {c: fold(c) for c in set(text) if not c.isascii()}
    same_length = {ord(c): twin for c, twin in alphabet.items() if len(twin) == 1 and twin != c}
    text = text.translate(same_length)
    return _view(text, _moving(alphabet))


def _view(spelt: str, moving: re.Pattern[str]) -> View:
    # The one escape that makes up most of a quoted text is worth a way of its own.
    text = substituted(moving, spelt.replace("%20", " ") if moving is PERCENT else spelt)
    return View(spelt, spelt) if text == spelt else View(text, spelt, moving)


@cache
def _exotic() -> re.Pattern[str]:
    return re.compile(f"[{exotic_class()}\ud800-\udfff]|[{mark_class()}]{{2}}")


def _is_exotic(text: str) -> bool:
    return not text.isascii() and _exotic().search(text) is not None


def _moving(alphabet: Mapping[str, str]) -> re.Pattern[str]:
    """Finds the pieces of a text of these characters whose length may change."""
    marks = _class(c for c in alphabet if joins(c))
    gone = _class(c for c, twin in alphabet.items() if not twin)
    grown = _class(c for c, twin in alphabet.items() if len(twin) > 1)
    choices = [
        SPELLINGS,
        marks and f".?{marks}{{1,{_MARKS_PER_LETTER}}}",
        gone and f"{gone}+",
        grown,
    ]
    return re.compile("|".join(filter(None, choices)), re.DOTALL)


def _class(characters: Iterable[str]) -> str:
    inside = "".join(characters)
    return f"[{inside}]" if inside else ""


def _offsets(text: str, moving: re.Pattern[str]) -> _Offsets:
    """Where every character of the text starts and ends that `text` is read as."""
    starts, ends = array("I"), array("I")
    behind = 0
    known = Readings()
    for found in moving.finditer(text):
        start, end = found.span()
        _extend(starts, ends, range(behind, start))
        size = len(known[found[0]])
        starts.extend((start,) * size)
        ends.extend((end,) * size)
        behind = end
    _extend(starts, ends, range(behind, len(text)))
    return starts, ends


def _extend(starts: array[int], ends: array[int], kept: range) -> None:
    upwards = _upwards(max(16, kept.stop.bit_length()))
    starts.extend(upwards[kept.start : kept.stop])
    ends.extend(upwards[kept.start + 1 : kept.stop + 1])


@cache
def _upwards(bits: int) -> array[int]:
    """0, 1, 2, ... below `2**bits`; copying a slice of it is cheaper than counting one up."""
    return array("I", range(1 << bits))
