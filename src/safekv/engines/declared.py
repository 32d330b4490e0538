"""What an operator declared, as the tokens that prompts begin with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from safekv.engines.base import DeclaredText
from safekv.errors import RequestError

log = logging.getLogger(__name__)


def declared_tokens(
    one: DeclaredText,
    encode: Callable[[str], list[int]],
    encode_chat: Callable[[Sequence[Mapping[str, str]]], list[int]],
) -> list[int]:
    """The tokens that every prompt with the declared text begins with; none if it fails."""
    if not one.system:
        return encode(one.text)
    system = {"role": "system", "content": one.text}
    try:
        first, second = (encode_chat([system, {"role": "user", "content": text}]) for text in "ab")
    except RequestError as error:
        log.error("a declared system message is not shared: %s", error.message)
        return []
    same = (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return first[: next(same, 0)]
