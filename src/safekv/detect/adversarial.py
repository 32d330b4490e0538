"""Private values written so that a pattern misses them, and innocent text that looks alike."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from safekv.detect.labelled import LabelledSpan, LabelledText

VALUES: Final[Mapping[str, tuple[str, str]]] = {
    "card": ("My card number is ", "4111 1111 1111 1111"),
    "e-mail": ("Please write to ", "jane.doe@example.org"),
    "phone": ("Call me on ", "+44 20 7946 0958"),
    "iban": ("Transfer it to ", "DE89 3704 0044 0532 0130 00"),
    "ssn": ("My social security number is ", "536-90-4399"),
    "password": ("The database password is ", "Tr0ub4dor&3x!Q"),
    "key": ("Use the key ", "AKIAIOSFODNN7EXAMPLQ"),
}
"""Values as people write them, and what stands before them."""

_HOMOGLYPHS: Final = str.maketrans("aceopxyjsiABCEHIKMOPTX", "асеорхујѕіАВСЕНІКМОРТХ")
"""Latin letters by Cyrillic ones that look the same."""

_LEET: Final = str.maketrans("aeiost", "431057")

PROSE: Final = (
    "The committee met again and agreed that the old bridge should be painted before winter. "
    "Nobody had asked for the colour, and so the question was left open until spring. "
)
"""Innocent text; 24 times it is about 1,000 tokens."""

_LANGUAGES: Final = (
    "Meine Kartennummer lautet {}, bitte sperren Sie sie.",
    "Mon numéro de carte est le {}, merci de la bloquer.",
    "Mi número de tarjeta es {}, bloquéela por favor.",
    "Il numero della mia carta è {}, per favore bloccatela.",
    "Mijn kaartnummer is {}, blokkeer hem alstublieft.",
    "Numer mojej karty to {}, proszę ją zablokować.",
    "Мой номер карты {}, заблокируйте её, пожалуйста.",
    "私のカード番号は{}です。止めてください。",
    "我的卡号是{}，请冻结。",
    "رقم بطاقتي هو {} من فضلك أوقفها.",
    "मेरा कार्ड नंबर {} है, कृपया इसे बंद करें।",
)

_INNOCENT: Final = (
    "In Moscow the museum is called Третьяковская галерея, and it opens at ten.",
    "He wrote 1337 h4x0r on the wall, which is leet for a hacker of the nineties.",
    "Decode this: " + base64.b64encode(b"hello world, this is nothing but a greeting").decode(),
    "The Greek word is λόγος and the Russian one is слово; both mean word.",
    "Version 4.11.1 of the library needs 16 digits of precision, as in 3.1415926535897932.",
    "A 5h0rt c0d3 f0r th3 g4m3 is printed on page 4111 of the manual.",
    "Write the numbers 4, 1, 1, 1, 1, 1 and 1 in a row and add them up.",
    "Use the data URI data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFc for a dot.",
)


def adversarial_set() -> list[LabelledText]:
    """Every trick on every value that it fits, then innocent texts. The kind is the trick."""
    return [
        *(text for trick in _TRICKS for text in _written(trick)),
        *_split_over_turns(),
        *_diluted(),
        *(_in_language(sentence) for sentence in _LANGUAGES),
        *(LabelledText(text) for text in _INNOCENT),
    ]


def _written(trick: str) -> Iterator[LabelledText]:
    for kind, (before, value) in VALUES.items():
        written = _TRICKS[trick](value)
        if written != value:
            yield _placed(before, " as we agreed.", written, trick, kind)


def _placed(before: str, behind: str, value: str, kind: str, group: str = "") -> LabelledText:
    span = LabelledSpan(len(before), len(before) + len(value), kind)
    return LabelledText(before + value + behind, (span,), f"{kind}-{group}")


def _in_language(sentence: str) -> LabelledText:
    before, behind = sentence.split("{}")
    return _placed(before, behind, VALUES["card"][1], "language", before)


def _split_over_turns() -> Iterator[LabelledText]:
    """The value's halves in two messages of one user, which a pattern sees as two numbers."""
    for kind in ("card", "iban", "ssn"):
        before, value = VALUES[kind]
        half = len(value) // 2
        first = f"User: {before}{value[:half]}"
        between = "\nAssistant: Please go on.\nUser: and then "
        text = f"{first}{between}{value[half:]} is the rest."
        start = len(first) - half
        second = len(first) + len(between)
        spans = (
            LabelledSpan(start, len(first), "split-over-turns"),
            LabelledSpan(second, second + len(value) - half, "split-over-turns"),
        )
        yield LabelledText(text, spans, f"split-{kind}")


def _diluted() -> Iterator[LabelledText]:
    """One value in some 4,000 tokens of prose."""
    for kind, (before, value) in VALUES.items():
        prose = PROSE * 48
        yield _placed(prose + before, ". " + prose, value, "diluted", kind)


def _spaced(value: str) -> str:
    return " ".join(value.replace(" ", ""))


def _based(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _full_width(value: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if c.isdigit() or c.isalpha() else c for c in value)


_TRICKS: Final[Mapping[str, Callable[[str], str]]] = {
    "homoglyphs": lambda value: value.translate(_HOMOGLYPHS),
    "leetspeak": lambda value: value.translate(_LEET) if "@" in value else value,
    "spaced": _spaced,
    "zero-width": "\u200b".join,
    "full-width": _full_width,
    "base64": _based,
    "url-escaped": lambda value: quote(value, safe=""),
    "look-alike-digits": lambda value: value.replace("1", "l").replace("0", "O"),
}
