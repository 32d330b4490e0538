"""Spellings that stand for other text: escapes of JSON, URLs and HTML, and special tokens."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from safekv.detect.folding import FLEETING, fold

LONGEST: Final = 48
"""Characters that no single spelling exceeds."""

_KINDS: Final = {
    # Special tokens of chat templates. None holds a blank or what starts another spelling.
    "token": r"<(?:[|｜][^\s<>|｜\\%&]{1,40}[|｜]|/?s|[be]os|(?:start|end)_of_turn|</?SYS>)>",
    "square-token": r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    # Several backslashes, as text quoted twice has; bounded so that a run of them stays linear.
    # Surrogates stay as they are: half of a pair is no character.
    "backslash": r"""\\\\{0,3}(?:[nrt"'/]|u(?![dD][89A-Fa-f])[0-9A-Fa-f]{4})""",
    # Blanks and marks, but not what formats of printf look like.
    "percent": (
        r"%(?:0[9AaDd]|2[0-9ABbCcDEFf]|3[ABCDEFabcd]|40|5[BDF]|7[BDE]"
        r"|[Cc][2-9A-Fa-f]%[89AB][0-9A-F]|[Ee][0-9A-Fa-f](?:%[89AB][0-9A-F]){2})"
    ),
    "entity": r"&(?:amp|quot|apos|nbsp|lt|gt|commat|#(?:[0-9]{2,5}|x[0-9A-Fa-f]{2,4}));",
}
_FLEETING: Final = f"[{FLEETING}]+"

_FIRST: Final = {
    "<": "token",
    "[": "square-token",
    "\\": "backslash",
    "%": "percent",
    "&": "entity",
}
"""With what the spellings of each kind start."""

SPELLINGS: Final = "|".join(_KINDS.values())
"""Matches all of them, and nothing that `read` does not know."""

_SPELLING: Final = re.compile(SPELLINGS)


def kinds_in(text: str) -> tuple[str, ...]:
    """The kinds of spellings that occur in `text`."""
    kinds = [
        _KINDS[kind]
        for first, kind in _FIRST.items()
        if first in text and pattern_of((_KINDS[kind],)).search(text)
    ]
    if not text.isascii() and any(c in text for c in FLEETING):
        kinds.append(_FLEETING)
    return tuple(kinds)


@cache
def pattern_of(kinds: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the spellings of these kinds."""
    return re.compile("|".join(kinds), re.DOTALL)


PERCENT: Final = pattern_of((_KINDS["percent"],))
"""Finds the escapes of URLs alone."""


def substituted(pattern: re.Pattern[str], text: str) -> str:
    """`text` with each piece that `pattern` finds replaced by what it stands for."""
    known = Readings()
    return pattern.sub(lambda found: known[found[0]], text)


class Readings(dict[str, str]):
    """What pieces of one text stand for; not kept beyond it, as no detector keeps a prompt."""

    def __missing__(self, piece: str) -> str:
        meant = _FIXED.get(piece)
        if meant is None:
            meant = _read(piece)
        self[piece] = meant
        return meant


def _read(piece: str) -> str:
    """What one piece that `SPELLINGS` matches stands for; any other piece is folded."""
    if not _SPELLING.fullmatch(piece):
        return fold(piece)
    if piece[0] in "<[":
        return "\n"
    said = _said(piece)
    return fold(said) if said.isprintable() or not said.isascii() else " "


def _said(piece: str) -> str:
    if piece[0] == "%":
        octets = bytes.fromhex(piece.replace("%", ""))
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return piece
    if piece[0] == "&":
        return html.unescape(piece)
    said = piece.lstrip("\\")
    if len(said) > 1:
        return chr(int(said[1:], 16))
    return " " if said.isalpha() else said


_FIXED: Final[Mapping[str, str]] = {
    piece: _read(piece) for piece in ("\\n", '\\"', "\\t", "\\r", "\\'", "\\/", "%20", "&amp;")
}
