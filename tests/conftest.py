"""Fixtures that more than one kind of test uses."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: a busy machine must not make one fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tests load models from disk only; a hub that answers, or hangs, must not change them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Triton decides at its first import whether kernels are interpreted, and torch may import it.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_report_header() -> str | None:
    """Says once why nothing of tests/integration/vllm runs."""
    if importlib.util.find_spec("vllm") is None:
        return "tests/integration/vllm: left out, vLLM is not installed here (make test-vllm)"
    return None


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The default model, fetched and converted on first use."""
    from safekv.engines.hf.store import DEFAULT_MODEL, resolve_model

    path = resolve_model(DEFAULT_MODEL)
    assert isinstance(path, Path)
    return path


@pytest.fixture(scope="session")
def tiny_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and the default model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
