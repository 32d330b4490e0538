"""Text as the token classifier reads it: word pieces, their places, shapes of words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tokenizers import Tokenizer

from safekv.detect.folding import encodable
from safekv.errors import DetectorError

WINDOW_TOKENS: Final = 126
"""Pieces in one window at most; the network's 128 positions also hold its two marks."""

OVERLAP_TOKENS: Final = 24
"""Pieces that neighbouring windows share at least, so that nothing shorter straddles an edge."""

SHAPES: Final = 6
"""How many shapes `shape_of` tells apart."""

_LOWER, _CAPITALISED, _UPPER, _MIXED, _DIGITS, _MARK = range(SHAPES)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The word pieces of a text: ids, character offsets `[start, end)`, and shapes of words."""

    ids: tuple[int, ...] = field(repr=False)
    offsets: tuple[tuple[int, int], ...] = field(repr=False)
    shapes: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Cuts text into word pieces of an uncased vocabulary, and keeps the case as a shape.

    Needs the package `tokenizers` alone. Offsets count characters of the text as given.
    """

    def __init__(self, tokenizer_json: str) -> None:
        """Raises `DetectorError` when `tokenizer_json` describes no tokenizer with BERT's marks."""
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises bare exceptions
            raise DetectorError("the classifier's tokenizer cannot be read") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.pad_id = self._id_of("[PAD]")
        self.unknown_id = self._id_of("[UNK]")
        self.first_id = self._id_of("[CLS]")
        self.last_id = self._id_of("[SEP]")

    def encode(self, text: str) -> Pieces:
        """The pieces of `text`, without marks. O(characters), about 1 ms per 1,000 tokens."""
        readable = encodable(text)
        encoding = self._tokenizer.encode(readable, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        return Pieces(
            tuple(ids), tuple(offsets), tuple(_shapes(readable, encoding.word_ids, offsets))
        )

    def _id_of(self, mark: str) -> int:
        found = self._tokenizer.token_to_id(mark)
        if found is None:
            raise DetectorError(f"the classifier's tokenizer has no {mark}")
        return int(found)


def windows(
    tokens: int, size: int = WINDOW_TOKENS, overlap: int = OVERLAP_TOKENS
) -> Iterator[tuple[int, int]]:
    """Ranges `[start, end)` that cover `tokens` pieces; neighbours share `overlap` or more.

    As few as `size` allows, and all of one length, so that a batch of them needs no padding.
    """
    if tokens <= size:
        if tokens:
            yield 0, tokens
        return
    count = -(-(tokens - overlap) // (size - overlap))
    length = -(-(tokens + (count - 1) * overlap) // count)
    for number in range(count):
        start = min(number * (length - overlap), tokens - length)
        yield start, start + length


def shape_of(word: str) -> int:
    """Which of `SHAPES` shapes `word` has: lower, Capitalised, UPPER, mIxed, digits or a mark."""
    if word.islower():
        return _LOWER
    if any(c.isdigit() for c in word):
        return _DIGITS
    if not any(c.isalpha() for c in word):
        return _MARK
    if word[:1].isupper() and (len(word) == 1 or word[1:].islower()):
        return _CAPITALISED
    if word.isupper():
        return _UPPER
    return _MIXED if any(c.isupper() for c in word) else _LOWER


def _shapes(text: str, words: list[int | None], offsets: list[tuple[int, int]]) -> Iterator[int]:
    """The shape of the word that each piece belongs to."""
    first = 0
    while first < len(words):
        last = first
        while last + 1 < len(words) and words[last + 1] == words[first]:
            last += 1
        shape = shape_of(text[offsets[first][0] : offsets[last][1]])
        yield from (shape for _ in range(first, last + 1))
        first = last + 1
