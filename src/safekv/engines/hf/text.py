"""Between tokens and text: streams of answers, and documents for the detector."""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream

from safekv.detect.base import Document
from safekv.types import unpack_tokens
from safekv.warden import PromptJob


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

    def document(self, job: PromptJob) -> Document:
        """The document of `job`. O(tokens), about 2 µs per token; off the request path."""
        stream = DecodeStream(skip_special_tokens=False)
        pieces: list[str] = []
        ends: list[int] = []
        starts = [0]
        length = 0
        for i, token in enumerate(unpack_tokens(job.tokens), start=1):
            if token in self._special and length > starts[-1]:
                starts.append(length)
            piece = stream.step(self._tokenizer, token)
            if piece:
                pieces.append(piece)
                length += len(piece)
            if i % self._block_tokens == 0 and len(ends) < job.full_blocks:
                ends.append(length)
        return Document("".join(pieces), tuple(ends), tuple(starts))
