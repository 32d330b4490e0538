"""What fusing M changed: logits, greedy tokens and perplexity, fused against plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safekv.errors import CloakError, ModelError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyPlan:
    """How much text is compared. The prompts are spread evenly over the same text."""

    text_tokens: int = 2048
    window_tokens: int = 256
    prompts: int = 20
    prompt_tokens: int = 32
    new_tokens: int = 64
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `verify`. Perplexities are of the text, in windows that know nothing before."""

    max_abs_logit_diff: float
    greedy_tokens_identical: int
    greedy_tokens_total: int
    perplexity_plain: float
    perplexity_cloaked: float
    perplexity_tokens: int
    dtype: str


def manual_text() -> str:
    """Public text that every Python has: the reference manual as `pydoc` shows it."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def verify(
    plain: Path, fused: Path, text: str, plan: VerifyPlan, report: Callable[[int, int], None]
) -> Comparison:
    """Run both checkpoints on `text`. Raises `CloakError` if it is too short."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plain)
    # Far more characters than tokens are asked for: tokenising a whole manual takes seconds.
    ids = tokenizer(text[: 16 * plan.text_tokens], return_tensors="pt").input_ids[0]
    if len(ids) < plan.text_tokens:
        raise CloakError(
            f"the text has {len(ids)} tokens, and {plan.text_tokens} are needed",
            "pass a longer one",
        )
    models = [_load(path, DTYPES[plan.dtype]) for path in (plain, fused)]
    return compare(models, ids[: plan.text_tokens], plan, report)


def compare(
    models: Sequence[Any], ids: torch.Tensor, plan: VerifyPlan, report: Callable[[int, int], None]
) -> Comparison:
    """Compare two loaded models, plain and fused, on the tokens `ids` (1-D)."""
    windows = torch.split(ids, plan.window_tokens)
    largest, losses, tokens = 0.0, [0.0, 0.0], 0
    with torch.inference_mode():
        for done, window in enumerate(windows):
            report(done, len(windows) + 1)
            logits = [model(window[None]).logits[0].float() for model in models]
            largest = max(largest, float((logits[0] - logits[1]).abs().max()))
            tokens += len(window) - 1
            for at, one in enumerate(logits):
                losses[at] += _loss(one, window)
        report(len(windows), len(windows) + 1)
        answers = [_greedy(model, _prompts(ids, plan), plan.new_tokens) for model in models]
    perplexities = [float(torch.tensor(loss / tokens).exp()) for loss in losses]
    return Comparison(
        max_abs_logit_diff=largest,
        greedy_tokens_identical=int((answers[0] == answers[1]).sum()),
        greedy_tokens_total=answers[0].numel(),
        perplexity_plain=perplexities[0],
        perplexity_cloaked=perplexities[1],
        perplexity_tokens=tokens,
        dtype=plan.dtype,
    )


def _load(path: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no model that can be loaded", str(error)) from error


def _loss(logits: torch.Tensor, window: torch.Tensor) -> float:
    """The summed negative log-likelihood of all tokens of a window but the first."""
    return float(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum"))


def _prompts(ids: torch.Tensor, plan: VerifyPlan) -> torch.Tensor:
    last = len(ids) - plan.prompt_tokens
    starts = [last * at // max(1, plan.prompts - 1) for at in range(plan.prompts)]
    return torch.stack([ids[start : start + plan.prompt_tokens] for start in starts])


def _greedy(model: Any, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """The likeliest next tokens, (prompts, new_tokens). Written out: no end token stops it."""
    out = model(prompts, use_cache=True)
    answer = [out.logits[:, -1].argmax(-1)]
    for _ in range(new_tokens - 1):
        out = model(answer[-1][:, None], past_key_values=out.past_key_values, use_cache=True)
        answer.append(out.logits[:, -1].argmax(-1))
    return torch.stack(answer, dim=1)
