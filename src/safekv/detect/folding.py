"""What is one character to a rule: which characters are read as others, and which never are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Final

UNDECODABLE: Final = "\ufffd"
"""Stands where bytes did not decode; lone surrogates become it too."""

_TWINS: Final = {
    **dict.fromkeys("‘’‚‛", "'"),
    **dict.fromkeys("“”„‟«»", '"'),
    **dict.fromkeys("·‧∙", "."),
    "\u2212": "-",  # the minus sign: no dash to Unicode
}

COMMON: Final = "’“”—–\u00a0‘‑«»·，：（）！？；｜"
"""Characters with an ASCII twin that ordinary text is full of; each is looked for by itself."""

FLEETING: Final = "…\ufe0f\u200d\u200b\u200c\u200e\u200f"
"""Characters that ordinary text is full of, and that grow or vanish."""

_SURVEYED: Final = ((0x80, 0x10000), (0x1F000, 0x1FC00))
"""Code points that are looked at one by one: scripts in use and emoji. All others are exotic."""


def fold(piece: str) -> str:
    """`piece` in NFKC without format characters; digits, dashes, quotes and blanks in ASCII."""
    composed = unicodedata.normalize("NFKC", _visible(piece))
    return "".join(_ascii_twin(c) for c in _visible(composed))


def encodable(text: str) -> str:
    """`text` with each lone surrogate as U+FFFD: of the same length, and it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(UNDECODABLE if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def joins(c: str) -> bool:
    """Whether NFKC may compose `c` with the character before it."""
    return unicodedata.combining(c) != 0 or "\u1160" <= c <= "\u11ff"


@cache
def exotic_class(escape: str = "\\U{:08x}") -> str:
    """The inside of a character class of all that `fold` changes or may join, a few too many.

    Text without such a character, and without two combining marks in a row, is what it
    folds to: `joins` marks that compose with nothing are left out. `escape` writes a code
    point. Costs 60 ms once.
    """
    return "".join(
        f"{escape.format(first)}-{escape.format(last)}" for first, last in _exotic_ranges()
    )


@cache
def mark_class(escape: str = "\\U{:08x}") -> str:
    """The inside of a character class of all combining marks that `exotic_class` leaves out."""
    exotic = re.compile(f"[{exotic_class()}]")
    marks = (c for c in _surveyed() if unicodedata.combining(c) and not exotic.match(c))
    return "".join(
        f"{escape.format(first)}-{escape.format(last)}" for first, last in _runs(map(ord, marks))
    )


@cache
def _exotic_ranges() -> tuple[tuple[int, int], ...]:
    seconds = {
        int(parts[1], 16)
        for parts in (unicodedata.decomposition(c).split() for c in _surveyed())
        if len(parts) == 2 and not parts[0].startswith("<")
    }
    surveyed = (ord(c) for c in _surveyed() if ord(c) in seconds or _is_exotic(c))
    beyond = ((0x10000, 0x1EFFF), (0x1FC00, 0x10FFFF))
    return tuple(sorted((*_runs(surveyed), *beyond)))


def _surveyed() -> Iterator[str]:
    # Surrogates are left out: text that holds one cannot be encoded and is never read fast.
    points = chain.from_iterable(range(*bounds) for bounds in _SURVEYED)
    return (chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _is_exotic(c: str) -> bool:
    if "\u1160" <= c <= "\u11ff" or not unicodedata.is_normalized("NFKC", c):
        return True
    return unicodedata.category(c) in ("Nd", "Pd", "Zs") or c in _TWINS or _invisible(c)


def _runs(points: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending `points` as closed ranges."""
    runs: list[tuple[int, int]] = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1] = (runs[-1][0], point)
        else:
            runs.append((point, point))
    return runs


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
