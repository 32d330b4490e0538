"""Which word is likely next? A thief's guess from a local language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safekv.errors import ConfigError


def unordered(before: str, words: Sequence[str]) -> Sequence[str]:
    """The words as they are: a thief without a language model."""
    return words


class LocalModel:
    """Orders words by their probability behind a text, under a causal model on this machine.

    Raises `ConfigError` when transformers or torch is missing, or `path` holds no model. An order
    costs one forward pass over all words.
    """

    def __init__(self, path: Path) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ConfigError(
                "ordering candidates needs torch and transformers", "pip install 'safekv[hf]'"
            ) from None
        if not (path / "config.json").is_file():
            raise ConfigError(f"{path} holds no model", "name a directory with config.json")
        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def __call__(self, before: str, words: Sequence[str]) -> list[str]:
        """`words`, most likely first behind `before`."""
        known = len(self._tokenizer(before)["input_ids"])
        rows = [self._tokenizer(f"{before} {word}")["input_ids"] for word in words]
        longest = max(map(len, rows))
        padded = self._torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        with self._torch.inference_mode():
            logits = self._model(padded).logits.log_softmax(-1)
        # Causal attention: what is padded behind a row does not reach it.
        scores = {
            word: sum(float(logits[n, at - 1, row[at]]) for at in range(known, len(row)))
            for n, (word, row) in enumerate(zip(words, rows, strict=True))
        }
        return sorted(words, key=scores.__getitem__, reverse=True)
