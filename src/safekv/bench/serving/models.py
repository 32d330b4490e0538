"""The models that are served: from disk, or of a wanted architecture with random weights.

How long a step takes does not depend on the values of the weights, so a large model need not be
fetched to be timed. Its answers mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from safekv.cache import CacheConfig
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.load import LoadedModel, load, pick_device, pick_dtype
from safekv.errors import ConfigError

RANDOM: Final = "random:"
SHAPES: Final[dict[str, dict[str, int]]] = {
    # Llama 3 8B's shape, but for the vocabulary, which is the tokenizer's.
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 65536,
    },
    "toy": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 65536,
    },
}
"""Architectures for `random:NAME`, by name."""


def load_model(model: dict[str, Any], settings: HFConfig) -> LoadedModel:
    """The model at `model["source"]` (with `local`: a directory), or for `random:NAME` one of that
    shape with the tokenizer found there. Raises `ModelError` or `ConfigError`."""
    source = Path(model["source"]) if model["local"] else model["source"]
    shape = model.get("shape")
    if shape is None:
        return load(source, settings)
    if shape not in SHAPES:
        raise ConfigError(f"there is no shape {shape}", f"use {', '.join(SHAPES)}")
    return _random(SHAPES[shape], source, settings)


def _random(shape: dict[str, int], tokenizer_of: Path | str, settings: HFConfig) -> LoadedModel:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(
        str(tokenizer_of), local_files_only=isinstance(tokenizer_of, Path)
    )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    device = pick_device(settings)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=None,
        rope_theta=500000.0,
        attn_implementation="sdpa",
        **shape,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(pick_dtype(settings, device))
    try:
        # Made where it will stay: a copy of 16 GB in host memory first would take a minute.
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return LoadedModel(model.to(device).eval(), tokenizer, shape["max_position_embeddings"])


def about(loaded: LoadedModel) -> dict[str, Any]:
    """What a record says of the model and where it runs."""
    device = loaded.model.device
    cuda = device.type == "cuda"
    return {
        "parameters": int(sum(p.numel() for p in loaded.model.parameters())),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "threads": torch.get_num_threads(),
        "context_tokens": loaded.context_tokens,
        "memory_bytes": torch.cuda.mem_get_info(device)[1] if cuda else None,
        "block_bytes": _block_bytes(loaded.model) if cuda else None,
    }


def _block_bytes(model: Any) -> int:
    """The KV of one block of the default size: keys and values of all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * heads * width * CacheConfig().block_tokens
    return int(numbers * model.dtype.itemsize)
