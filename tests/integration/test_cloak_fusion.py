"""Fusing M on tiny random models of every kind: the same logits, other keys and values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safekv.cloak.config import Part
from safekv.cloak.hazmat.reference import draw_feature
from safekv.cloak.keys import CloakKey
from safekv.errors import CloakError, ModelError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safekv.cloak.fusion import MARKER, fuse_checkpoint, fuse_model  # noqa: E402
from safekv.cloak.verify import VerifyPlan, compare  # noqa: E402

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def quiet(done: int, total: int) -> None:
    assert done < total


def tiny(kind: str) -> Any:
    """A random model in float64; biases too are random, so that forgetting one shows."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    made = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)),
        "llama-wide-heads": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=12)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4)),
    }
    model = made[kind]().double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


IDS = torch.arange(60) * 7 % 90
PLAN = VerifyPlan(window_tokens=30, prompts=3, prompt_tokens=8, new_tokens=6)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("kind", ["llama", "llama-wide-heads", "mistral", "qwen2", "gpt2"])
def test_a_fused_model_says_the_same(kind: str, scale: float) -> None:
    plain, fused = tiny(kind), tiny(kind)
    key = CloakKey.generate()
    attention = fuse_model(fused, key, scale, quiet)
    told = compare([plain, fused], IDS, PLAN, quiet)
    assert told.max_abs_logit_diff < 1e-5  # compared in float32
    assert told.greedy_tokens_identical == told.greedy_tokens_total == 18
    assert told.perplexity_cloaked == pytest.approx(told.perplexity_plain, rel=1e-6)

    caches = [model(IDS[None]).past_key_values for model in (plain, fused)]
    config = attention.cloak_config(scale)
    for layer in range(2):
        for part, name in ((Part.KEYS, "keys"), (Part.VALUES, "values")):
            before, after = (getattr(cache.layers[layer], name)[0] for cache in caches)
            assert (before - after).abs().max() > 0.1
            expected = before @ torch.from_numpy(draw_feature(key, config, layer, part)[0])
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beacon", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_fused_model_with_a_cloaked_cache_says_the_same(kind: str, beacon: bool) -> None:
    from dataclasses import replace

    from safekv.cloak import Cloak
    from safekv.cloak.calibrate import limits_of
    from safekv.cloak.hf import CloakedCache

    plain, fused, key = tiny(kind), tiny(kind), CloakKey.generate()
    attention = fuse_model(fused, key, 1.2, quiet)
    limits = limits_of(fused, IDS[None])
    config = replace(
        attention.cloak_config(1.2), block_tokens=4, limit=max(limits.values()), beacon=beacon
    )
    made = []

    def new_cache() -> CloakedCache:
        cloak = Cloak(key, config, fused=True, limits=limits)
        made.append(CloakedCache.matrix(fused.config, cloak))
        return made[-1]

    plan = VerifyPlan(window_tokens=30, prompts=3, prompt_tokens=8, new_tokens=6, chunk_tokens=7)
    told = compare([plain, fused], IDS, plan, quiet, new_cache)
    assert told.max_abs_logit_diff < 1e-5
    assert told.greedy_tokens_identical == told.greedy_tokens_total == 18
    assert told.perplexity_cloaked == pytest.approx(told.perplexity_plain, rel=1e-6)
    assert [len(cache.layers[1].blocks) for cache in made] == [7, 7, 3]


def test_a_cache_read_under_another_key_says_something_else() -> None:
    """So the comparison above can fail."""
    from dataclasses import replace

    from safekv.cloak import Cloak
    from safekv.cloak.hf import CloakedCache

    model, key = tiny("llama"), CloakKey.generate()
    attention = fuse_model(model, key, 1.0, quiet)
    config = replace(attention.cloak_config(1.0), block_tokens=4, limit=1e3)
    told = []
    for other in (key, CloakKey.generate()):
        cache = CloakedCache.matrix(model.config, Cloak(key, config, fused=True))
        model(IDS[None], past_key_values=cache)
        for layer in cache.layers:
            layer._guard._cloak = Cloak(other, config, fused=True)
        told.append(model(IDS[None, :1], past_key_values=cache).logits)
    plain = model(torch.cat([IDS, IDS[:1]])[None]).logits[:, -1:]
    torch.testing.assert_close(told[0], plain, rtol=1e-4, atol=1e-4)
    assert (told[1] - plain).abs().max() > 1e-2


def test_another_key_gives_other_keys_and_values() -> None:
    one, two = tiny("llama"), tiny("llama")
    fuse_model(one, CloakKey.generate(), 1.0, quiet)
    fuse_model(two, CloakKey.generate(), 1.0, quiet)
    weights = [model.model.layers[0].self_attn.k_proj.weight for model in (one, two)]
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_models_that_normalise_keys_are_refused_with_the_reason_and_untouched() -> None:
    model, before = tiny("qwen3"), tiny("qwen3")
    with pytest.raises(ModelError, match=r"qwen3.*normalises queries and keys.*q_norm"):
        fuse_model(model, CloakKey.generate(), 1.0, quiet)
    for mine, its in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_unknown_and_quantised_models_are_refused() -> None:
    from transformers import OPTConfig, OPTForCausalLM

    opt = OPTForCausalLM(
        OPTConfig(
            vocab_size=50,
            hidden_size=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        )
    )
    with pytest.raises(ModelError, match="'opt' cannot be fused"):
        fuse_model(opt, CloakKey.generate(), 1.0, quiet)
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data = model.model.layers[1].mlp.up_proj.weight.to(
        torch.float8_e4m3fn
    )
    with pytest.raises(ModelError, match="quantised"):
        fuse_model(model, CloakKey.generate(), 1.0, quiet)


def test_a_checkpoint_appears_whole_with_its_other_files(tmp_path: Path) -> None:
    source, out = tmp_path / "plain", tmp_path / "deep" / "fused"
    plain = tiny("qwen2").float()
    plain.save_pretrained(source)
    (source / "tokenizer.json").write_text("{}")
    key = CloakKey.generate(3)
    fuse_checkpoint(source, out, key, 1.0, quiet)
    assert json.loads((out / MARKER).read_text())["key_version"] == 3
    assert (out / "tokenizer.json").read_text() == "{}"
    assert [path.name for path in out.parent.iterdir()] == ["fused"]
    fused = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert type(fused) is type(plain)
    told = compare([plain, fused], IDS, PLAN, quiet)
    assert told.max_abs_logit_diff < 1e-4
    with pytest.raises(CloakError, match="exists"):
        fuse_checkpoint(source, out, key, 1.0, quiet)
    with pytest.raises(ModelError, match="fused already"):
        fuse_checkpoint(out, tmp_path / "again", key, 1.0, quiet)
    with pytest.raises(ModelError):
        fuse_checkpoint(tmp_path, tmp_path / "nothing", key, 1.0, quiet)
    assert not (tmp_path / "nothing").exists()
