"""Prompts for engines, and what the model answers without any cache."""

from __future__ import annotations

from safekv.engines.hf.engine import HFEngine

BLOCK = 32
PARAGRAPH = (
    "The lighthouse keeper climbed the narrow stairs every evening, lit the lamp, and wrote the "
    "weather of the day into a large book with a blue cover. "
)


def prompt(engine: HFEngine, n_tokens: int) -> list[int]:
    ids = engine.encode(PARAGRAPH * (1 + n_tokens // 20))
    assert len(ids) >= n_tokens
    return ids[:n_tokens]


def expected(engine: HFEngine, tokens: list[int], max_tokens: int) -> str:
    """What `model.generate` says, greedily, without any prefix cache."""
    import torch

    model, tokenizer = engine.loop.model, engine._model.tokenizer
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
        )
    text: str = tokenizer.decode(ids[0, len(tokens) :], skip_special_tokens=True)
    return text
