"""What the cloak changed: logits, greedy tokens and perplexity, against the plain model.

Two things apart: fusing M into the weights, and reading KV back from blocks that lay under S, P and
the beacon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from safekv.cloak.keys import CloakKeyFile
from safekv.cloak.transform import Cloak
from safekv.errors import CloakError, ModelError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyPlan:
    """How much text is compared, and how blocks are mixed.

    The prompts are spread evenly over the same text. With a cache, each window goes through the
    model in chunks of `chunk_tokens`, so that all but the first read obfuscated blocks.
    """

    text_tokens: int = 2048
    window_tokens: int = 256
    prompts: int = 20
    prompt_tokens: int = 32
    new_tokens: int = 64
    dtype: str = "float32"
    chunk_tokens: int = 64
    block_tokens: int = 16
    beacon: bool = True
    condition: float = 1.0


QUICK = VerifyPlan(text_tokens=510, prompts=4, new_tokens=16)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `verify`: against the plain model the cloaked one, and the fused one alone.

    Perplexities are of the text, in windows that know nothing before. Without a cache in
    between, "cloaked" is fused.
    """

    max_abs_logit_diff: float
    greedy_tokens_identical: int
    greedy_tokens_total: int
    perplexity_plain: float
    perplexity_cloaked: float
    perplexity_tokens: int
    fused_max_abs_logit_diff: float
    fused_greedy_tokens_identical: int
    perplexity_fused: float
    dtype: str
    beacon: bool


def manual_text() -> str:
    """Public text that every Python has: the reference manual as `pydoc` shows it."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


NewCache: TypeAlias = "Callable[[], Any]"


def verify(
    plain: Path,
    fused: Path,
    text: str,
    plan: VerifyPlan,
    report: Callable[[int, int], None],
    keys: CloakKeyFile | None = None,
) -> Comparison:
    """Run both checkpoints on `text`, and the fused one with a cloaked cache under its key too.

    Without `keys` only what fusing changed is compared. Raises `CloakError` if the text is too
    short, `ConfigError` for a missing key, `ModelError` for a checkpoint that was not fused.
    """
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
    ids = ids[: plan.text_tokens]
    cache = None if keys is None else _cloaked(models[1], fused, keys, ids, plan)
    return compare(models, ids, plan, report, cache)


def _cloaked(
    model: Any, fused: Path, keys: CloakKeyFile, ids: torch.Tensor, plan: VerifyPlan
) -> NewCache:
    """Makes cloaked caches for a fused checkpoint, under the key that it was fused with."""
    from safekv.cloak.calibrate import limits_of
    from safekv.cloak.fusion import attention_of, read_marker
    from safekv.cloak.hf import CloakedCache

    version, scale = read_marker(fused)
    limits = limits_of(model, ids[None, : plan.window_tokens])
    config = replace(
        attention_of(model).cloak_config(scale),
        block_tokens=plan.block_tokens,
        limit=max(limits.values()),
        beacon=plan.beacon,
        condition=plan.condition,
    )
    cloak = Cloak(keys.key(version), config, fused=True, limits=limits)
    return lambda: CloakedCache.matrix(model.config, cloak, strict=False)


def compare(
    models: Sequence[Any],
    ids: torch.Tensor,
    plan: VerifyPlan,
    report: Callable[[int, int], None],
    new_cache: NewCache | None = None,
) -> Comparison:
    """Compare two loaded models, plain and fused, on the tokens `ids` (1-D).

    With `new_cache` the fused one runs a second time, through the caches that it makes.
    """
    plain, fused = models
    windows = torch.split(ids, plan.window_tokens)
    sides: list[tuple[Any, NewCache | None]] = [(plain, None), (fused, None)]
    if new_cache is not None:
        sides.append((fused, new_cache))
    largest, losses, tokens = [0.0] * len(sides), [0.0] * len(sides), 0
    with torch.inference_mode():
        for done, window in enumerate(windows):
            report(done, len(windows) + len(sides))
            logits = [_logits(one, cache, window, plan.chunk_tokens) for one, cache in sides]
            tokens += len(window) - 1
            for at, one in enumerate(logits):
                largest[at] = max(largest[at], float((logits[0] - one).abs().max()))
                losses[at] += _loss(one, window)
        answers = []
        for done, (model, cache) in enumerate(sides, start=len(windows)):
            report(done, len(windows) + len(sides))
            answers.append(_greedy(model, cache, _prompts(ids, plan), plan.new_tokens))
    perplexities = [float(torch.tensor(loss / tokens).exp()) for loss in losses]
    identical = [int((answers[0] == answer).sum()) for answer in answers]
    return Comparison(
        max_abs_logit_diff=largest[-1],
        greedy_tokens_identical=identical[-1],
        greedy_tokens_total=answers[0].numel(),
        perplexity_plain=perplexities[0],
        perplexity_cloaked=perplexities[-1],
        perplexity_tokens=tokens,
        fused_max_abs_logit_diff=largest[1],
        fused_greedy_tokens_identical=identical[1],
        perplexity_fused=perplexities[1],
        dtype=plan.dtype,
        beacon=plan.beacon,
    )


def _logits(
    model: Any, new_cache: NewCache | None, window: torch.Tensor, chunk_tokens: int
) -> torch.Tensor:
    if new_cache is None:
        return model(window[None]).logits[0].float()  # type: ignore[no-any-return]
    cache = new_cache()
    chunks = [
        model(chunk[None], past_key_values=cache).logits[0].float()
        for chunk in torch.split(window, chunk_tokens)
    ]
    return torch.cat(chunks)


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


def _greedy(
    model: Any, new_cache: NewCache | None, prompts: torch.Tensor, new_tokens: int
) -> torch.Tensor:
    """The likeliest next tokens, (prompts, new_tokens). Written out: no end token stops it."""
    out = model(prompts, past_key_values=new_cache() if new_cache else None, use_cache=True)
    answer = [out.logits[:, -1].argmax(-1)]
    for _ in range(new_tokens - 1):
        out = model(answer[-1][:, None], past_key_values=out.past_key_values, use_cache=True)
        answer.append(out.logits[:, -1].argmax(-1))
    return torch.stack(answer, dim=1)
