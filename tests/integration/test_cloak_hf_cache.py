"""`CloakedCache` in `model.generate`: the tokens of `DynamicCache`, and nothing in the clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from safekv.cloak import Cloak, CloakConfig, CloakKey, Stream
from safekv.cloak.calibrate import limits_of
from safekv.cloak.fusion import attention_of, fuse_model
from safekv.cloak.hf import CloakedCache
from safekv.errors import CloakError, ModelError

B = 16
KINDS = ["llama", "qwen2", "gpt2"]
Make = Callable[[Any, torch.Tensor], tuple[Any, CloakedCache]]


def tiny(kind: str) -> Any:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    torch.manual_seed(0)
    made = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**sizes)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4)),
    }
    model = made[kind]().eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def stream(model: Any, ids: torch.Tensor) -> tuple[Any, CloakedCache]:
    return model, CloakedCache.stream(model.config, B)


def cloak_for(model: Any, ids: torch.Tensor, *, fused: bool, **strength: float) -> Cloak:
    shapes = attention_of(model)
    limits = limits_of(model, ids)
    config = CloakConfig(
        block_tokens=B,
        head_dim=shapes.head_dim,
        kv_heads=shapes.kv_heads,
        limit=max(limits.values()),
        rope=shapes.rope,
        **strength,  # type: ignore[arg-type]
    )
    return Cloak(CloakKey.generate(), config, fused=fused, limits=limits)


def matrix(model: Any, ids: torch.Tensor) -> tuple[Any, CloakedCache]:
    cloak = cloak_for(model, ids, fused=False, condition=4.0, scale=1.2)
    return model, CloakedCache.matrix(model.config, cloak, strict=False)


def fused_matrix(model: Any, ids: torch.Tensor) -> tuple[Any, CloakedCache]:
    cloak = cloak_for(model, ids, fused=True)
    fuse_model(model, cloak._key, 1.0, lambda done, total: None)
    return model, CloakedCache.matrix(model.config, cloak, strict=False)


MAKERS = pytest.mark.parametrize("make", [stream, matrix, fused_matrix])


def generated(model: Any, ids: torch.Tensor, cache: Any, n: int = 40, **more: Any) -> list[Any]:
    out: list[Any] = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        max_new_tokens=n,
        do_sample=False,
        **more,
    ).tolist()
    return out


@MAKERS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_tokens", [1, B - 1, B, 2 * B + 5])
def test_greedy_tokens_are_those_of_dynamic_cache(kind: str, n_tokens: int, make: Make) -> None:
    """A batch of two, answers over several blocks; then the conversation goes on in the cache."""
    model = tiny(kind)
    ids = torch.randint(0, 90, (2, n_tokens), generator=torch.Generator().manual_seed(1))
    truth_cache = DynamicCache(config=model.config)
    truth = generated(model, ids, truth_cache)
    longer = torch.cat([torch.tensor(truth), ids], dim=1)
    second_truth = generated(model, longer, truth_cache, 5)
    model, cache = make(model, ids)
    assert generated(model, ids, cache) == truth
    assert cache.get_seq_length() == n_tokens + 39
    assert len(cache.layers[0].blocks) == (n_tokens + 39) // B
    assert generated(model, longer, cache, 5) == second_truth


@MAKERS
def test_what_lies_in_the_cache_is_not_what_was_computed(make: Make) -> None:
    model = tiny("llama")
    ids = torch.randint(0, 90, (1, 3 * B + 2), generator=torch.Generator().manual_seed(1))
    ids[:, B : 2 * B] = ids[:, :B]
    model, cache = make(model, ids)
    with torch.inference_mode():
        truth = model(ids, past_key_values=DynamicCache(config=model.config)).past_key_values
        seen = model(ids, past_key_values=cache).past_key_values
    assert seen is cache
    for layer, plain in zip(cache.layers, truth.layers, strict=True):
        assert layer.keys.shape[2] == 2, "the partial block"
        for name in ("keys", "values"):
            wanted = getattr(plain, name)
            torch.testing.assert_close(getattr(layer, name), wanted[:, :, 3 * B :])
            for at, block in enumerate(layer.blocks):
                stored = getattr(block, name).nan_to_num(0.0)
                gap = stored[:, :, :, None] - wanted[:, :, None, at * B : (at + 1) * B]
                assert float(gap.abs().amax(-1).min()) > 1e-3
        # Values of layer 0 depend on the tokens alone: equal blocks, stored in different ways.
        first, second = layer.blocks[:2]
        assert (first.values != second.values).float().mean() > 0.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_stream_gives_the_very_same_logits(dtype: str) -> None:
    model = tiny("llama").to(getattr(torch, dtype))
    ids = torch.randint(0, 90, (2, 50), generator=torch.Generator().manual_seed(1))
    caches = DynamicCache(config=model.config), CloakedCache.stream(model.config, B)
    with torch.inference_mode():
        for part in ids.split(7, dim=1):
            one, two = (model(part, past_key_values=cache).logits for cache in caches)
            assert torch.equal(one, two)


@MAKERS
def test_beams_and_crops(make: Make) -> None:
    model = tiny("llama")
    ids = torch.randint(0, 90, (2, 20), generator=torch.Generator().manual_seed(1))
    truth = generated(model, ids, DynamicCache(config=model.config), num_beams=3)
    whole = model(ids, past_key_values=DynamicCache(config=model.config)).logits
    model, cache = make(model, ids)
    assert generated(model, ids, cache, num_beams=3) == truth
    cache.reset()
    assert cache.get_seq_length() == 0
    model(ids, past_key_values=cache)
    for keep in (18, 16, 9, 0):
        cache.crop(keep - cache.get_seq_length())
        assert cache.get_seq_length() == keep
        again = model(ids[:, keep:], past_key_values=cache).logits
        torch.testing.assert_close(again, whole[:, keep:], rtol=1e-3, atol=1e-3)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2]))
    cache.crop(-4)
    again = model(ids[:, 16:], past_key_values=cache).logits
    torch.testing.assert_close(again, whole[:, 16:], rtol=1e-3, atol=1e-3)


def test_no_stamp_comes_twice_when_one_stream_serves_many_caches() -> None:
    model, one = tiny("llama"), Stream()
    ids = torch.arange(2 * B)[None]
    caches = [CloakedCache.stream(model.config, B, one) for _ in range(3)]
    for cache in caches:
        model(ids, past_key_values=cache)
    stamps = [
        stamp
        for c in caches
        for layer in c.layers
        for block in layer.blocks
        for stamp in block.secret
    ]
    assert len(set(stamps)) == len(stamps) == 3 * 2 * 2 * 2


def test_what_cannot_be_is_refused() -> None:
    from transformers import MistralConfig

    with pytest.raises(ModelError, match="'mistral' has layers other than full attention"):
        CloakedCache.stream(MistralConfig(sliding_window=8))
    model = tiny("llama")
    with pytest.raises(CloakError, match="block_tokens is 0"):
        CloakedCache.stream(model.config, 0)
    cloak = cloak_for(model, torch.arange(20)[None], fused=False)
    low = Cloak(
        cloak._key, cloak.config, fused=False, limits={(1, part): 1e-3 for part in list(_parts())}
    )
    with pytest.raises(CloakError, match=r"above the limit 0\.001"):
        model(torch.arange(20)[None], past_key_values=CloakedCache.matrix(model.config, low))


def _parts() -> Any:
    from safekv.cloak import Part

    return Part


@pytest.mark.model
@MAKERS
def test_the_real_model(model_dir: Path, make: Make) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    ids = tokenizer("The lighthouse keeper wrote the weather of", return_tensors="pt").input_ids
    truth = generated(model, ids, DynamicCache(config=model.config), 30)
    model, cache = make(model, ids)
    assert generated(model, ids, cache, 30) == truth
