"""What M in the weights costs a decoding step on a GPU: a fused model beside the plain one."""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from safekv.bench.cloak_gpu import took_s
from safekv.bench.stats import paired_ratio
from safekv.cloak.fusion import fuse_model
from safekv.cloak.keys import CloakKey

MOST: Final = 1.01
"""The bar: a fused step takes at most so many times the plain one's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """A Llama of about 1B parameters with random weights, and a context to attend on."""

    hidden: int = 2048
    inner: int = 8192
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 49152
    batch: int = 16
    context_tokens: int = 1024
    steps: int = 16
    rounds: int = 15
    seed: int = 0


TINY: Final = DecodePlan(
    hidden=64, inner=64, layers=1, heads=4, kv_heads=2, vocabulary=64, batch=1,
    context_tokens=8, steps=2, rounds=2,
)  # fmt: skip


def run(plan: DecodePlan, device: str) -> dict[str, Any]:
    """Seconds a step of both, interleaved, and their ratio.

    The weights' values do not matter to the time; that the shapes and kernels stay the same is
    what is shown. bfloat16 on a GPU.
    """
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    plain = _model(plan)
    fused = copy.deepcopy(plain)
    fuse_model(fused, CloakKey.generate(), 1.0, lambda done, total: None)
    models = {"plain": plain, "fused": fused}
    steps = {name: _steps(one.to(device, kind), plan, device) for name, one in models.items()}
    times_s: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(plan.seed)  # noqa: S311 - a schedule, not a secret
    for n in range(-1, plan.rounds):
        for name in order.sample(list(steps), len(steps)):
            one_s = took_s(steps[name], 1, torch.device(device)) / plan.steps
            if n >= 0:
                times_s[name].append(one_s)
    ratio = paired_ratio(times_s["fused"], times_s["plain"])
    return {
        "plan": asdict(plan),
        "step_s": {name: statistics.median(one) for name, one in times_s.items()},
        "fused_over_plain": asdict(ratio),
        "bar": {"what": "decode, M fused / plain", "most": MOST, "met": ratio.value <= MOST},
    }


def _model(plan: DecodePlan) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        hidden_size=plan.hidden,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.kv_heads,
        vocab_size=plan.vocabulary,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def _steps(model: Any, plan: DecodePlan, device: str) -> Callable[[], object]:
    """Decodes `plan.steps` tokens behind the context, each time the same."""
    ids = torch.randint(1, plan.vocabulary, (plan.batch, plan.context_tokens), device=device)

    @torch.no_grad()
    def steps() -> None:
        if (spare := cache.get_seq_length() - plan.context_tokens) > 0:
            cache.crop(-spare)
        for _ in range(plan.steps):
            model(ids[:, :1], past_key_values=cache, use_cache=True)

    with torch.no_grad():
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    return steps
