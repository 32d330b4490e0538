"""One spelling for text that looks the same, with the way back to the original offsets."""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

UNDECODABLE: Final = "\ufffd"
"""Stands where bytes did not decode; lone surrogates become it too."""

_MARKS_PER_LETTER: Final = 31
"""As in Unicode's stream-safe format: more marks on one letter make NFKC quadratic."""

_TWINS: Final = {
    **dict.fromkeys("‘’‚‛", "'"),
    **dict.fromkeys("“”„‟«»", '"'),
    **dict.fromkeys("·‧∙", "."),
    "\u2212": "-",  # the minus sign: no dash to Unicode
}

# Several backslashes, as text quoted twice has; bounded so that a run of them stays linear.
# Surrogates stay as they are: half of a pair is no character.
_ESCAPES: Final = (
    r"""\\\\{0,3}(?:[nrt"'/]|u(?![dD][89A-Fa-f])[0-9A-Fa-f]{4})"""
    r"|%(?:0[9AaDd]|2[0267BbFf]|3[AaDd]|40)"
)
_ESCAPE: Final = re.compile(_ESCAPES)


@dataclass(frozen=True, slots=True)
class View:
    """A text as rules read it: NFKC, ASCII digits, dashes and quotes, no escapes.

    Character `i` of `text` stands for `original[starts[i]:ends[i]]`; where `starts` is
    None the two texts are equal. Offsets count characters.
    """

    text: str = field(repr=False)
    starts: array[int] | None = field(default=None, repr=False)
    ends: array[int] | None = field(default=None, repr=False)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original span that covers `text[start:end]`, which must not be empty. O(1)."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]

    def index(self, offset: int) -> int:
        """How many characters of `text` begin before `offset` of the original. O(log n)."""
        return offset if self.starts is None else bisect_left(self.starts, offset)


def normalise(text: str) -> View:
    """The view of `text` that rules match against.

    Format characters (zero-width, bidi, soft hyphen) and variation selectors vanish;
    decimal digits of every script, dashes and quotes become ASCII. Escapes of JSON and
    URLs that stand for blanks or marks are undone, as logs and quoted requests hold
    them; CR is a line break. At most 31 combining marks are composed with the letter
    before them. O(n); offsets are kept only when a character vanishes, grows or joins
    another.
    """
    if "\r" in text:
        text = text.replace("\r", "\n")
    if text.isascii():
        return _rewrite(text, _ESCAPE) if _may_escape(text) else View(text)
    alphabet = {c: _fold(c) for c in set(text) if not c.isascii()}
    same_length = {ord(c): twin for c, twin in alphabet.items() if len(twin) == 1 and twin != c}
    text = text.translate(same_length)
    moving = _moving(alphabet, _may_escape(text))
    return View(text) if moving is None else _rewrite(text, moving)


def _may_escape(text: str) -> bool:
    return "\\" in text or "%" in text


def _moving(alphabet: Mapping[str, str], escapes: bool) -> re.Pattern[str] | None:
    """Finds the pieces of text whose length may change, or is None when there are none."""
    marks = _class(c for c in alphabet if _joins(c))
    gone = _class(c for c, twin in alphabet.items() if not twin)
    grown = _class(c for c, twin in alphabet.items() if len(twin) > 1)
    choices = [
        _ESCAPES if escapes else "",
        marks and f".?{marks}{{1,{_MARKS_PER_LETTER}}}",
        gone and f"{gone}+",
        grown,
    ]
    pattern = "|".join(filter(None, choices))
    return re.compile(pattern, re.DOTALL) if pattern else None


def _class(characters: Iterable[str]) -> str:
    inside = "".join(characters)
    return f"[{inside}]" if inside else ""


def _rewrite(text: str, moving: re.Pattern[str]) -> View:
    """`text` with each moving piece folded, and where every character came from."""
    parts: list[str] = []
    starts, ends = array("I"), array("I")
    behind = 0
    read = cache(_read)  # for this call only: a detector keeps nothing of a prompt
    for found in moving.finditer(text):
        start, end = found.span()
        if behind < start:
            parts.append(text[behind:start])
            _extend(starts, ends, range(behind, start))
        folded = read(found.group())
        parts.append(folded)
        for _ in folded:
            starts.append(start)
            ends.append(end)
        behind = end
    if not parts:
        return View(text)
    parts.append(text[behind:])
    _extend(starts, ends, range(behind, len(text)))
    return View("".join(parts), starts, ends)


def _extend(starts: array[int], ends: array[int], kept: range) -> None:
    upwards = _upwards(max(16, kept.stop.bit_length()))
    starts.extend(upwards[kept.start : kept.stop])
    ends.extend(upwards[kept.start + 1 : kept.stop + 1])


@cache
def _upwards(bits: int) -> array[int]:
    """0, 1, 2, ... below `2**bits`; copying a slice of it is cheaper than counting one up."""
    return array("I", range(1 << bits))


def _read(piece: str) -> str:
    return _unescaped(piece) if _ESCAPE.fullmatch(piece) else _fold(piece)


def _unescaped(escape: str) -> str:
    said = escape.lstrip("\\")
    if said[0] == "%" or len(said) > 1:
        said = chr(int(said[1:], 16))
    elif said.isalpha():
        return " "
    return _fold(said) if said.isprintable() or not said.isascii() else " "


def _fold(piece: str) -> str:
    composed = unicodedata.normalize("NFKC", _visible(piece))
    return "".join(_ascii_twin(c) for c in _visible(composed))


def _visible(characters: Iterable[str]) -> str:
    return "".join(c for c in characters if not _invisible(c))


def _invisible(c: str) -> bool:
    return (
        unicodedata.category(c) == "Cf"
        or c == "\u034f"  # combining grapheme joiner
        or "\u180b" <= c <= "\u180f"  # Mongolian variation selectors
        or "\ufe00" <= c <= "\ufe0f"
        or "\U000e0100" <= c <= "\U000e01ef"
    )


def _ascii_twin(c: str) -> str:
    if c.isascii():
        return c
    match unicodedata.category(c):
        case "Nd":
            return str(unicodedata.decimal(c))
        case "Pd":
            return "-"
        case "Zs":
            return " "
        case "Cs":
            return UNDECODABLE
    return _TWINS.get(c, c)


def _joins(c: str) -> bool:
    """Whether NFKC may compose `c` with the character before it."""
    return unicodedata.combining(c) != 0 or "\u1160" <= c <= "\u11ff"
