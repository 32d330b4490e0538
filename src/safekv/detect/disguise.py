"""Spellings that hide a value from patterns: read once more as what they stand for."""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_TWINS: Final = str.maketrans(
    "асеорхујѕіԁһӏАВСЕНІЈКМОРЅТХУΑΒΕΖΗΙΚΜΝΟΡΤΥΧαορνικτυχ",
    "aceopxyjsidhlABCEHIJKMOPSTXYABEZHIKMNOPTYXaopviktux",
)
"""Cyrillic and Greek letters by the Latin ones that look the same (Unicode TS 39, confusables)."""

_DIGITS: Final = str.maketrans("OoIl", "0011")
_LETTERS: Final = str.maketrans("013457", "oieast")

_OTHER: Final = r"[\u0370-\u03ff\u0400-\u052f]"
_SHORTEST_BASE64: Final = 12
_READABLE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Disguise:
    """One way to hide a value. `hint` is for RE2: only where it occurs are pieces looked for."""

    hint: str
    piece: re.Pattern[str]
    read: Callable[[str], str | None]
    """What a piece stands for; None leaves it as it is."""

    def undone(self, text: str) -> Unmasked | None:
        """`text` with every piece read, or None if that changes nothing. O(n)."""
        parts: list[str] = []
        starts, offsets, pieces = [0], [0], [False]
        behind = length = 0
        for found in self.piece.finditer(text):
            meant = self.read(found[0])
            if meant is None or meant == found[0]:
                continue
            plain = text[behind : found.start()]
            parts += (plain, meant)
            length += len(plain)
            starts += (length, length + len(meant))
            offsets += found.span()
            pieces += (True, False)
            length += len(meant)
            behind = found.end()
        if not parts:
            return None
        return Unmasked("".join([*parts, text[behind:]]), starts, offsets, pieces, len(text))


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A text in which pieces were read, and the way back to the offsets of the original.

    From `starts[i]` on the text is the original's from `offsets[i]` on; where `pieces[i]`,
    it is what one piece there was read as, which ends where the next part begins.
    """

    text: str = field(repr=False)
    starts: list[int]
    offsets: list[int]
    pieces: list[bool]
    size: int

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original of `text[start:end]`, not empty; a piece that it touches is whole."""
        first = bisect_right(self.starts, start) - 1
        last = bisect_right(self.starts, end - 1) - 1
        ends = [*self.offsets[1:], self.size]
        return (
            self.offsets[first] if self.pieces[first] else self._back(first, start),
            ends[last] if self.pieces[last] else self._back(last, end),
        )

    def touches(self, start: int, end: int) -> bool:
        """Whether `text[start:end]` holds anything that was read as something else."""
        first = bisect_right(self.starts, start) - 1
        last = bisect_right(self.starts, end - 1) - 1
        return any(self.pieces[first : last + 1])

    def _back(self, part: int, at: int) -> int:
        return self.offsets[part] + at - self.starts[part]


def _as_text(piece: str) -> str | None:
    """The text that `piece` is Base64 of, if it is of one in ASCII that reads as such."""
    bare = piece.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        said = data.decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    printable = sum(c.isprintable() or c in "\n\t" for c in said)
    return said if said and printable >= _READABLE * len(said) else None


def _as_digits(piece: str) -> str | None:
    return piece.translate(_DIGITS) if any(c.isdigit() for c in piece) else None


DISGUISES: Final[Mapping[str, Disguise]] = {
    "homoglyphs": Disguise(
        r"[A-Za-z0-9][\p{Greek}\p{Cyrillic}]|[\p{Greek}\p{Cyrillic}][A-Za-z0-9]",
        re.compile(rf"\w*(?:[A-Za-z0-9]{_OTHER}|{_OTHER}[A-Za-z0-9])\w*"),
        lambda piece: piece.translate(_TWINS),
    ),
    "digits": Disguise(
        r"[0-9][OlI][0-9OlI -]|[OlI][0-9][0-9OlI -]",
        re.compile(r"(?<![A-Za-z])[0-9OoIl](?:[ -]?[0-9OoIl]){6,36}(?![A-Za-z])"),
        _as_digits,
    ),
    "leetspeak": Disguise(
        r"[a-z][013457][a-z]|\.[013457][a-z]",
        re.compile(
            r"\b(?=[a-z013457]*[a-z])[a-z013457]*[013457][a-z][a-z013457]*\b", re.IGNORECASE
        ),
        lambda piece: piece.translate(_LETTERS),
    ),
    "spaced": Disguise(
        r"(?: [!-~]){8} ",
        re.compile(r"(?<!\S)(?:[!-~] ){7,80}[!-~](?!\S)"),
        lambda piece: piece.replace(" ", ""),
    ),
    "base64": Disguise(
        # Mixed case and, unlike most names of variables, a digit or padding.
        r"[a-z][A-Z][A-Za-z+/]*[0-9][A-Za-z0-9+/]{2}|[0-9][A-Za-z0-9+/]*[a-z][A-Z][A-Za-z+/]{2}"
        r"|[a-z][A-Z][A-Za-z0-9+/]*=",
        re.compile(rf"(?<![\w+/=-])[A-Za-z0-9+/_-]{{{_SHORTEST_BASE64},4096}}={{0,2}}(?![\w+/=-])"),
        _as_text,
    ),
}
"""What stage 1 sees through, each tried only on a text in which its hint occurs."""

NAMES: Final = tuple(DISGUISES)


def undone(names: Iterable[str], text: str) -> list[Unmasked]:
    """`text` seen through each of the disguises `names` that it really wears."""
    return [seen for name in names if (seen := DISGUISES[name].undone(text)) is not None]
