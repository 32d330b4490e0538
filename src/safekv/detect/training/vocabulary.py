"""The encoder's word pieces, cut down to the frequent ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

MARKS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_FIRST_NON_LATIN: Final = 0x500


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer of the pieces `kept` (ids of the original, in the order of the new ones)."""

    tokenizer_json: str = field(repr=False)
    kept: list[int] = field(repr=False)


def cut_down(tokenizer_json: str, size: int) -> Vocabulary:
    """The marks, every Latin, Greek or Cyrillic character, then the first pieces up to `size`.

    BERT's uncased vocabulary lists pieces by falling frequency, so its order is the choice.
    What is cut off is spelt with more pieces; characters of other scripts become unknown.
    """
    tokenizer: dict[str, Any] = json.loads(tokenizer_json)
    old: dict[str, int] = tokenizer["model"]["vocab"]
    usable = sorted((i, piece) for piece, i in old.items() if _is_usable(piece))
    first = [(i, piece) for i, piece in usable if _is_needed(piece)]
    others = [(i, piece) for i, piece in usable if not _is_needed(piece)]
    chosen = sorted([*first, *others[: max(0, size - len(first))]])
    new = {piece: at for at, (_, piece) in enumerate(chosen)}
    tokenizer["model"]["vocab"] = new
    tokenizer["truncation"] = tokenizer["padding"] = tokenizer["post_processor"] = None
    for added in tokenizer["added_tokens"]:
        added["id"] = new[added["content"]]
    return Vocabulary(json.dumps(tokenizer, ensure_ascii=False), [i for i, _ in chosen])


def _is_needed(piece: str) -> bool:
    return piece in MARKS or len(piece.removeprefix("##")) == 1


def _is_usable(piece: str) -> bool:
    bare = piece.removeprefix("##")
    if piece in MARKS:
        return True
    return not bare.startswith("[unused") and all(
        ord(c) < _FIRST_NON_LATIN or 0x2000 <= ord(c) < 0x2200 for c in bare
    )
