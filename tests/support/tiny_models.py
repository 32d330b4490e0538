"""Small models with random weights, one per way of building attention."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safekv.attack.public import PublicModel

VOCABULARY = 400
ROPE = {
    "plain": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
KINDS = ("llama", "grouped", "llama3", "yarn", "mistral", "qwen2", "gpt2")


def tiny(kind: str) -> PublicModel:
    """A model of two layers and 400 tokens. `grouped` has half as many KV heads as queries."""
    torch.manual_seed(7)
    shapes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1 if kind == "grouped" else 2,
        "max_position_embeddings": 256,
        "rope_parameters": ROPE.get(kind, ROPE["plain"]),
    }
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=2, n_head=2, n_positions=256)
        )
        for block in model.transformer.h:
            torch.nn.init.normal_(block.ln_1.bias, std=0.1)
            torch.nn.init.normal_(block.attn.c_attn.bias, std=0.1)
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(sliding_window=None, **shapes))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shapes))
        for block in model.model.layers:
            torch.nn.init.normal_(block.self_attn.k_proj.bias, std=0.1)
    else:
        model = LlamaForCausalLM(LlamaConfig(**shapes))
    return PublicModel(model)


def text(n: int, seed: int = 0) -> list[int]:
    """`n` random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (n,), generator=generator).tolist()
