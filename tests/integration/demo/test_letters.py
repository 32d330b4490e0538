"""The form letters fit the default model's blocks; otherwise the attack would be too weak."""

from __future__ import annotations

import random
from itertools import takewhile

import pytest

from safekv.demo.story import conversation
from safekv.demo.texts import Form, Letter, draw_secrets

pytestmark = pytest.mark.model
BLOCK = 32


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from transformers import AutoTokenizer

    from safekv.engines.hf.store import DEFAULT_MODEL, ModelLibrary, known_model

    return AutoTokenizer.from_pretrained(ModelLibrary().fetch(known_model(DEFAULT_MODEL)))


def tokens(tokenizer: object, text: str) -> list[int]:
    prompt = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        conversation(text), add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(prompt, add_special_tokens=False))  # type: ignore[attr-defined]


def common(a: list[int], b: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@pytest.mark.parametrize("form", Form)
def test_a_right_guess_saves_three_blocks_and_leaves_less_than_half_of_one(
    tokenizer: object, form: Form
) -> None:
    secrets = draw_secrets(form, 40, random.Random(5))
    short = [tokens(tokenizer, Letter(form, secret).short) for secret in secrets]
    assert len({len(ids) for ids in short}) == 1
    before = min(common(short[0], other) for other in short[1:])
    behind = min(common(short[0][::-1], other[::-1]) for other in short[1:])
    known, last = before // BLOCK, (len(short[0]) - behind - 1) // BLOCK
    assert known == last, "the unknown part lies inside one block"

    full = tokens(tokenizer, Letter(form, secrets[0]).full)
    hit = common(short[0], full) // BLOCK
    assert hit - known == 3
    assert len(short[0]) - hit * BLOCK < BLOCK / 2


@pytest.mark.parametrize("form", Form)
def test_confirming_times_three_blocks_that_a_guess_did_not_send(
    tokenizer: object, form: Form
) -> None:
    letter = Letter(form, draw_secrets(form, 1, random.Random(6))[0])
    short, full = tokens(tokenizer, letter.short), tokens(tokenizer, letter.full)
    assert len(full) // BLOCK - common(short, full) // BLOCK == 3
    assert len(full) % BLOCK < BLOCK / 2
