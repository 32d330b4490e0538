"""Between tokens and text: streams of answers, and documents for the detector."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, Final

from tokenizers.decoders import ByteLevel, DecodeStream

from safekv.detect.base import Document
from safekv.types import unpack_tokens
from safekv.warden import PromptJob

UNDECODABLE: Final = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER: Final = 8


class AnswerText:
    """Turns generated tokens into text, holding back a character until it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token_ids: list[int]) -> str:
        """The text that `token_ids` complete; may be empty. O(new tokens)."""
        pieces = (self._stream.step(self._tokenizer, token) for token in token_ids)
        return "".join(piece for piece in pieces if piece)


class PromptText:
    """Makes the detector's view of a prompt: its text, and where blocks and messages end.

    A message starts at every special token, which is how chat templates mark them.
    """

    def __init__(self, tokenizer: Any, block_tokens: int) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._block_tokens = block_tokens
        # Only here does a piece decode to the same text alone as in its context.
        self._by_piece = isinstance(self._tokenizer.decoder, ByteLevel)

    def document(self, job: PromptJob) -> Document:
        """The document of `job`. O(tokens), off the request path.

        A block that ends inside a character ends behind that character, so that what begins
        with it is seen in both blocks.
        """
        tokens = unpack_tokens(job.tokens)
        document = self._pieced(tokens, job.full_blocks) if self._by_piece else None
        return document or self._streamed(tokens, job.full_blocks)

    def _pieced(self, tokens: list[int], full_blocks: int) -> Document | None:
        """Decode the pieces between block ends and special tokens, in one call that lets other
        threads run. `None` when a piece does not decode by itself: it ends in a character."""
        cuts, starts = self._cuts(tokens)
        pieces = [tokens[a:b] for a, b in pairwise(cuts)]
        texts: list[str] = self._tokenizer.decode_batch(pieces, skip_special_tokens=False)
        if any(UNDECODABLE in text for text in texts):
            return None
        offsets = dict(zip(cuts, accumulate(map(len, texts), initial=0), strict=True))
        ends = (offsets[n * self._block_tokens] for n in range(1, full_blocks + 1))
        return Document("".join(texts), tuple(ends), tuple(sorted({offsets[a] for a in starts})))

    def _cuts(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """Positions between pieces, first and last included, and those where messages start."""
        starts = [i for i, token in enumerate(tokens) if token in self._special]
        edges = range(0, len(tokens), self._block_tokens)
        return sorted({0, len(tokens), *starts, *edges}), [0, *starts]

    def _streamed(self, tokens: list[int], full_blocks: int) -> Document:
        """Decode token by token, about 2 µs each."""
        text = _Text(self._tokenizer)
        ends: list[int] = []
        starts = [0]
        for i, token in enumerate(tokens, start=1):
            if token in self._special and text.length > starts[-1]:
                starts.append(text.length)
            text.add(token)
            if i % self._block_tokens == 0 and len(ends) < full_blocks:
                ends.append(text.length + text.holds_back)
        whole = text.finish()
        return Document(whole, tuple(min(end, len(whole)) for end in ends), tuple(starts))


class _Text:
    """Decodes token by token; `holds_back` is 1 while a character is not whole, else 0."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._pieces: list[str] = []
        self._waiting = 0
        self.length = 0

    @property
    def holds_back(self) -> int:
        return int(self._waiting > 0)

    def add(self, token: int) -> None:
        """Take one token. A character has at most four bytes, so text that is still not whole
        after `LONGEST_CHARACTER` tokens is none: it counts as undecodable, and the stream
        starts anew, because it would decode everything it holds again with each token."""
        piece = self._stream.step(self._tokenizer, token)
        self._waiting = 0 if piece else self._waiting + 1
        if self._waiting >= LONGEST_CHARACTER:
            piece = UNDECODABLE
            self._stream, self._waiting = DecodeStream(skip_special_tokens=False), 0
        self._append(piece or "")

    def finish(self) -> str:
        """The whole text; what is still held back is undecodable."""
        if self._waiting:
            self._append(UNDECODABLE)
        return "".join(self._pieces)

    def _append(self, piece: str) -> None:
        self._pieces.append(piece)
        self.length += len(piece)
