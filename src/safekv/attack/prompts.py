"""The prompts that attacks are measured on, and how a template wraps them.

All bundled prompts are made up: identities, numbers and places belong to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safekv.attack.errors import AttackError

BUNDLED: Final = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One victim's words, and the spans of them that are nobody else's business."""

    text: str = field(repr=False)
    pii: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt as the engine sees it. `ids[first:last]` are the victim's own words.

    What comes before is the public template, `template` for short.
    """

    prompt: Prompt = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)
    first: int
    last: int

    @property
    def template(self) -> tuple[int, ...]:
        """The known beginning."""
        return self.ids[: self.first]

    @property
    def secret(self) -> range:
        """The positions that count."""
        return range(self.first, self.last)

    @property
    def words(self) -> tuple[int, ...]:
        """The tokens that count."""
        return self.ids[self.first : self.last]


def load_prompts(path: Path = BUNDLED) -> list[Prompt]:
    """The prompts in a file of JSON lines with `text` and `pii`, a list of spans of the text.

    Raises `AttackError` for a missing or malformed file, naming the line and not its content.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AttackError(f"cannot read the prompts {str(path)!r}: {error}") from None
    prompts = [_prompt(line, path, n) for n, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise AttackError(f"there are no prompts in {str(path)!r}")
    return prompts


def _prompt(line: str, path: Path, n: int) -> Prompt:
    try:
        told = json.loads(line)
        text, pii = told["text"], tuple(told.get("pii", ()))
        if not text or not isinstance(text, str) or not all(span in text for span in pii):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AttackError(
            f"line {n} of {str(path)!r} is no prompt",
            'write {"text": "…", "pii": ["…"]}, each span a part of the text',
        ) from None
    return Prompt(text, pii)


def tokenised(tokenizer: Any, prompts: Iterable[Prompt]) -> list[Tokens]:
    """Each prompt in the model's public chat template, or bare where it has none.

    The template's tokens are those before and behind which two different prompts agree.
    """
    return [_tokens(tokenizer, prompt) for prompt in prompts]


def _tokens(tokenizer: Any, prompt: Prompt) -> Tokens:
    if not getattr(tokenizer, "chat_template", None):
        ids = tokenizer(prompt.text, add_special_tokens=True)["input_ids"]
        first = next((n for n in range(len(ids)) if ids[n] not in tokenizer.all_special_ids), 0)
        return Tokens(prompt, tuple(ids), first, len(ids))
    one, two = (_chat(tokenizer, text) for text in ("a", "B"))
    first = next(n for n in range(len(one)) if one[n] != two[n])
    tail = len(one) - first - 1
    ids = _chat(tokenizer, prompt.text)
    return Tokens(prompt, tuple(ids), first, len(ids) - tail)


def _chat(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    return ids
