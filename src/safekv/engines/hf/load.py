"""Loads a causal language model and its tokenizer onto the right device."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from safekv.engines.hf.config import HFConfig
from safekv.errors import ConfigError, ModelError


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer, and the most tokens one sequence may have."""

    model: Any
    tokenizer: Any
    context_tokens: int


def pick_device(config: HFConfig) -> torch.device:
    """CUDA where there is one, unless told otherwise. Raises `ConfigError` for a missing device."""
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(
            f"engine.device is {wanted!r}", "use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"engine.device is {wanted!r}, but there is no CUDA device", "use cpu")
    return device


def pick_dtype(config: HFConfig, device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 on a CPU, unless told otherwise."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def load(source: Path | str, config: HFConfig) -> LoadedModel:
    """Load the model at `source` (a directory, or a hub id) for continuous batching with SDPA.

    Raises `ModelError` when it cannot be loaded or has no fast tokenizer. Takes seconds.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if not sys.stderr.isatty():
        disable_progress_bar()
    device = pick_device(config)
    local = isinstance(source, Path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local)
        model = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=pick_dtype(config, device),
            attn_implementation="sdpa",
            local_files_only=local,
        )
    except Exception as error:  # transformers raises many kinds for a bad checkpoint
        raise ModelError(
            f"cannot load model {str(source)!r}: {type(error).__name__}",
            "check that it is a causal language model with its tokenizer files",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"model {str(source)!r} has no fast tokenizer", "use a model with a tokenizer.json"
        )
    # Set once here, so that no later call changes the tokenizer while another thread reads it.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    limit = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0)) or 2048
    if config.context_tokens:
        limit = min(limit, config.context_tokens)
    return LoadedModel(model.to(device).eval(), tokenizer, limit)
