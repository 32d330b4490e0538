"""Plain caches of every kind of attention are read back; what does not fit is refused by name."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from safekv.attack import dump
from safekv.attack.calibration import between, calibrate
from safekv.attack.capture import Captured, capture, from_cache
from safekv.attack.collision import Rows, Rule, SearchPlan, nearest, search
from safekv.attack.errors import AttackError, DumpError, MismatchError, UnsupportedError
from safekv.attack.inversion import Method, hidden_states, invert
from safekv.attack.public import PublicModel
from support.tiny_models import KINDS, VOCABULARY, text, tiny

model = lru_cache(maxsize=None)(tiny)
TOKENS = text(40)


@pytest.mark.parametrize("kind", KINDS)
def test_projections_and_positions_are_the_models_own(kind: str) -> None:
    public = model(kind)
    captured = capture(public, TOKENS)
    ids, places = torch.tensor(TOKENS), torch.arange(len(TOKENS))
    with torch.inference_mode():
        keys, values = public.projection(0).apply(public.entering(ids, places))
    torch.testing.assert_close(public.split(values), captured.values[0], atol=1e-5, rtol=1e-4)
    turned = public.rotate(public.split(keys), places)
    torch.testing.assert_close(turned, captured.keys[0], atol=1e-5, rtol=1e-4)
    back = public.unrotate(captured.keys[1], places)
    torch.testing.assert_close(public.rotate(back, places), captured.keys[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_collision_reads_layer_0_and_deeper_ones(kind: str) -> None:
    public = model(kind)
    captured = capture(public, TOKENS)
    assert list(nearest(public, captured).tokens) == TOKENS
    plan = SearchPlan(budget=VOCABULARY, patience=1)
    found = search(public, Rows(captured, 1), 1, TOKENS[:4], 20, plan)
    assert list(found.tokens) == TOKENS[4:20]
    assert 16 <= found.tried <= 16 * VOCABULARY


def test_values_need_no_positions() -> None:
    public = model("llama")
    page = capture(public, TOKENS).only([0])
    shuffled = torch.randperm(len(TOKENS), generator=torch.Generator().manual_seed(1))
    page = replace(
        page, keys={0: page.keys[0][:, shuffled]}, values={0: page.values[0][:, shuffled]}
    )
    found = nearest(public, page, positions=False)
    assert list(found.tokens) == [TOKENS[n] for n in shuffled.tolist()]


def test_the_published_rule_takes_the_first_outlier() -> None:
    public = model("llama")
    captured = capture(public, TOKENS)
    plan = SearchPlan(rule=Rule.OUTLIER, batch=VOCABULARY, budget=VOCABULARY)
    found = search(public, Rows(captured, 1), 1, TOKENS[:4], 12, plan)
    right = sum(a == b for a, b in zip(found.tokens, TOKENS[4:12], strict=True))
    assert right >= 6


def test_a_search_in_noise_stops_and_names_nothing() -> None:
    public = model("llama")
    noise = Captured({1: torch.randn(2, 40, 64)}, {1: torch.randn(2, 40, 64)})
    plan = SearchPlan(budget=32, patience=2)
    found = search(public, Rows(noise, 1), 1, TOKENS[:4], 40, plan)
    assert (set(found.tokens), len(found.tokens), found.tried) == ({None}, 36, 0)
    # Known tokens in their places and noise behind them: it stops after `patience` misses.
    real = capture(public, TOKENS[:4])
    behind = Captured(
        {1: torch.cat([real.keys[1], noise.keys[1][:, 4:]], dim=1)},
        {1: torch.cat([real.values[1], noise.values[1][:, 4:]], dim=1)},
    )
    found = search(public, Rows(behind, 1), 1, TOKENS[:4], 40, plan)
    assert (set(found.tokens), found.tried) == ({None}, 2 * 32)


def test_a_hint_puts_the_right_token_on_the_first_batch() -> None:
    public = model("llama")
    captured = capture(public, TOKENS)
    offered: list[int] = []

    def hint(keys: torch.Tensor, values: torch.Tensor | None, position: int) -> torch.Tensor:
        assert torch.equal(keys, captured.keys[1][:, position : position + 1])
        assert values is not None
        offered.append(position)
        return 100.0 * torch.nn.functional.one_hot(torch.tensor(TOKENS[position]), VOCABULARY)

    plan = SearchPlan(first=1, batch=1, budget=4)
    found = search(public, Rows(captured, 1), 1, TOKENS[:4], 12, plan, hint)
    assert list(found.tokens) == TOKENS[4:12]
    assert (found.tried, offered) == (8, list(range(4, 12)))


def test_without_a_known_beginning_the_vocabulary_is_gone_through() -> None:
    public = model("llama")
    captured = capture(public, TOKENS)
    found = search(public, Rows(captured, 1), 1, [], 3, SearchPlan(budget=VOCABULARY))
    assert list(found.tokens) == TOKENS[:3]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grouped"])
@pytest.mark.parametrize("method", Method)
def test_inversion_is_exact_where_projections_are_square(kind: str, method: Method) -> None:
    public = model(kind)
    captured = capture(public, TOKENS)
    assert list(invert(public, captured, 0, method).tokens) == TOKENS
    # With layer 1's own weights; layer 0's would give something else.
    seen: list[torch.Tensor] = []
    norm = public.blocks[1].ln_1 if kind == "gpt2" else public.blocks[1].input_layernorm
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        public.model(torch.tensor([TOKENS]))
    handle.remove()
    states = hidden_states(public, captured, 1, method)
    true = public.projection(1).normed(seen[0][0])
    torch.testing.assert_close(states, true, atol=2e-2, rtol=2e-2)


def test_inversion_of_grouped_queries_is_better_than_nothing() -> None:
    public = model("grouped")
    found = invert(public, capture(public, TOKENS), 0)
    assert sum(a == b for a, b in zip(found.tokens, TOKENS, strict=True)) >= 30


def test_calibration_cuts_between_own_and_others_states() -> None:
    public = model("llama")
    own = [capture(public, text(30, seed)) for seed in (1, 2)]
    stored = [
        replace(one, keys={1: one.keys[1].bfloat16()}, values={1: one.values[1].bfloat16()})
        for one in (it.only([1]) for it in own)
    ]
    cut = calibrate(own, stored, 1, range(4, 30))
    assert 0.005 < cut.value < 0.5
    assert max(cut.missed, cut.wrong) < 0.01
    assert between([0.5] * 9, [0.1] * 9).value == 0.0
    with pytest.raises(AttackError, match="too few"):
        calibrate(own[:1], stored[:1], 1, range(4, 30))


# -- what does not fit ---------------------------------------------------------------------


def test_a_mismatched_cache_is_named() -> None:
    public = model("llama")
    captured = capture(public, TOKENS)
    with pytest.raises(MismatchError, match="rotated with base 5000"):
        nearest(public, replace(captured, claims={"rope_base": "5000.0"}))
    with pytest.raises(MismatchError, match="7 layers, and the model 2"):
        nearest(public, replace(captured, claims={"layers": "7"}))
    with pytest.raises(MismatchError, match="type 'gpt2'"):
        nearest(public, replace(captured, claims={"kind": "gpt2"}))
    half = {n: one[:, :, :32] for n, one in captured.keys.items()}
    with pytest.raises(MismatchError, match="head dimension of 32, and the model 64"):
        nearest(public, Captured(half, half))
    single = {n: one[:1] for n, one in captured.keys.items()}
    with pytest.raises(MismatchError, match="1 KV heads, and the model 2"):
        nearest(public, Captured(single, single))
    with pytest.raises(MismatchError, match="reaches 10 layers"):
        nearest(public, Captured({9: captured.keys[0]}, {9: captured.values[0]}))
    with pytest.raises(AttackError, match="layer 1 was not captured"):
        invert(public, captured.only([0]), 1)
    with pytest.raises(AttackError, match="layer 5 does not exist"):
        public.projection(5)


def test_another_rope_base_shows_in_the_tensors_themselves() -> None:
    public, other = model("llama"), tiny("llama")
    rotary = other.model.model.rotary_emb
    rotary.inv_freq.copy_(1.0 / 500.0 ** (torch.arange(0, 64, 2) / 64))
    captured = replace(capture(other, TOKENS), claims={})
    with pytest.raises(MismatchError, match="values are this model's and the keys are not"):
        nearest(public, captured)
    assert list(nearest(public, captured, positions=False).tokens) == TOKENS


def test_unsupported_models_are_named() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

    shapes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(num_attention_heads=2, intermediate_size=32, **shapes))
    public = PublicModel(neox)
    with pytest.raises(UnsupportedError, match="gpt_neox"):
        invert(public, capture(public, [1, 2, 3]), 0)
    with pytest.raises(UnsupportedError, match="linear_attention"):
        PublicModel(MambaForCausalLM(MambaConfig(state_size=4, **shapes)))
    with pytest.raises(AttackError, match="nothing to capture"):
        capture(public, [])
    with pytest.raises(AttackError, match="cannot load model"):
        PublicModel.load("/nowhere")


def test_a_cache_of_several_sequences_is_refused() -> None:
    public = model("llama")
    out = public.model(torch.tensor([TOKENS, TOKENS]), use_cache=True)
    with pytest.raises(AttackError, match="one sequence at a time"):
        from_cache(out.past_key_values)
    with pytest.raises(AttackError, match="a list holds no"):
        from_cache([])


# -- files ---------------------------------------------------------------------------------


def test_dumps_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    public = model("llama")
    path = tmp_path / "cache.safetensors"
    dump.save(replace(capture(public, TOKENS), start=3), path)
    back = dump.load(path)
    assert (back.start, back.layers, back.claims["kind"]) == (3, (0, 1), "llama")
    dump.save(capture(public, TOKENS), path)
    assert list(nearest(public, dump.load(path)).tokens) == TOKENS
    whole = path.read_bytes()
    for damage in (whole[:-100], whole[:20], b"", b"\xff" * 64):
        path.write_bytes(damage)
        with pytest.raises(DumpError):
            dump.load(path)
    with pytest.raises(DumpError, match="cannot read"):
        dump.load(tmp_path / "missing")


def test_files_of_other_contents_are_no_dumps(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "cache.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DumpError, match="'weight'"):
        dump.load(path)
    save_file({"keys.0": torch.zeros(1, 2, 2)}, path)
    with pytest.raises(DumpError, match="keys of 1 layers and values of 0"):
        dump.load(path)
    pair = {"keys.0": torch.zeros(1, 2, 2), "values.0": torch.zeros(1, 3, 2)}
    save_file(pair, path)
    with pytest.raises(AttackError, match="have the shapes"):
        dump.load(path)


def test_bytes_without_a_description_are_read_as_a_block() -> None:
    captured = capture(model("llama"), TOKENS)
    block = torch.stack(
        [
            torch.stack([captured.keys[n], captured.values[n]]).transpose(1, 2)
            for n in captured.layers
        ]
    )
    data = b"a header of any kind" + block.contiguous().numpy().tobytes()
    back = dump.opaque(data, 2, len(TOKENS), 64, 2, torch.float32)
    assert torch.equal(back.keys[1], captured.keys[1])
    assert torch.equal(back.values[0], captured.values[0])
    with pytest.raises(DumpError, match="are no block"):
        dump.opaque(data[:50], 2, len(TOKENS), 64, 2, torch.float32)
