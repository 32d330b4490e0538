"""Obfuscated blocks on the real engine: the same tokens, and nothing in the clear in the pool."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from safekv.cache import TiersConfig
from safekv.cloak.keys import CloakKeyFile
from safekv.engines.hf.config import CloakProfile, CloakSettings
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.paged import SelectiveCache
from safekv.errors import ConfigError, IsolationBroken, ModelError
from safekv.events import Evicted
from safekv.types import Mode, TenantId
from safekv.vault import Vault
from support.engines import Heard, ask, idle, running, settled, until
from support.prompts import BLOCK, expected, prompt

STREAM = CloakSettings(profile=CloakProfile.STREAM)
MATRIX = CloakSettings(profile=CloakProfile.MATRIX)
BOTH = pytest.mark.parametrize("cloak", [STREAM, MATRIX], ids=["stream", "matrix"])


def cache_of(engine: HFEngine) -> SelectiveCache:
    cache = engine.loop.batch_processor.cache
    assert isinstance(cache, SelectiveCache)
    return cache


def pool(engine: HFEngine) -> torch.Tensor:
    """The pool's memory, blocks as rows of bytes."""
    rows: torch.Tensor = cache_of(engine)._allocator._copy_view
    return rows


def computed(source: Path, tokens: list[int]) -> list[torch.Tensor]:
    """The keys and values that the plain model computes, (tokens, heads, dim) each."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.inference_mode():
        cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    return [states[0].transpose(0, 1) for one in cache.layers for states in (one.keys, one.values)]


def found(memory: torch.Tensor, parts: list[torch.Tensor]) -> int:
    """How many of the tokens of `parts` (tokens, heads, dim) lie as they are in `memory`.

    Per head: a row of one head's numbers, anywhere at a multiple of its size.
    """
    dim, hits = parts[0].shape[-1], 0
    rows = memory.view(torch.float32).reshape(-1, dim).nan_to_num(1e9).clamp(-1e9, 1e9)
    order = rows[:, 0].argsort()
    rows = rows[order]
    firsts = rows[:, 0].contiguous()
    for wanted in (row for part in parts for row in part.reshape(-1, dim)):
        low = torch.searchsorted(firsts, wanted[0] - 1e-3)
        high = torch.searchsorted(firsts, wanted[0] + 1e-3)
        hits += int(((rows[low:high] - wanted).abs().amax(1) < 1e-3).any()) if low < high else 0
    return hits


@pytest.mark.model
@BOTH
@pytest.mark.parametrize("mode", list(Mode))
async def test_greedy_equals_generate(model_dir: Path, mode: Mode, cloak: CloakSettings) -> None:
    """Token for token: computed in chunks, own hit, partial block, another tenant's text."""
    async with running(model_dir, mode, max_batch_tokens=48, cloak=cloak) as engine:
        assert engine.health()["cloak"] == cloak.profile.value
        for n_tokens in (BLOCK, 2 * BLOCK + 11):
            tokens = prompt(engine, n_tokens)
            truth = expected(engine, tokens, 6)
            if mode is Mode.SELECTIVE and n_tokens > BLOCK:
                await ask(engine, "c", tokens, 1)
                await settled(engine, 2)
            for tenant in ("a", "a", "b"):
                assert (await ask(engine, tenant, tokens)).text == truth, (n_tokens, tenant)
        await idle(engine)
        engine.check()


@BOTH
async def test_a_long_answer_is_that_of_the_plain_model(
    tiny_dir: Path, cloak: CloakSettings
) -> None:
    """Answers go on over several blocks, and are not only those of the fused weights."""
    async with running(tiny_dir, Mode.ISOLATED) as plain:
        tokens = prompt(plain, 100)
        truth = expected(plain, tokens, 80)
    async with running(tiny_dir, Mode.ISOLATED, cloak=cloak) as engine:
        for _ in range(2):
            assert (await ask(engine, "a", tokens, 80)).text == truth
        await idle(engine)
        engine.check()


@BOTH
async def test_nothing_in_the_clear_lies_in_the_pool(tiny_dir: Path, cloak: CloakSettings) -> None:
    async with running(tiny_dir, Mode.ISOLATED) as plain:
        tokens = prompt(plain, 3 * BLOCK + 9)
        await ask(plain, "a", tokens, 1)
        parts = computed(tiny_dir, tokens)
        # The control: without obfuscation all of it is found.
        assert found(pool(plain), parts) == sum(part[..., 0].numel() for part in parts)
    async with running(tiny_dir, Mode.ISOLATED, cloak=cloak) as engine:
        assert (await ask(engine, "a", tokens, 1)).text == expected(engine, tokens, 1)
        assert found(pool(engine), parts) == 0
        with torch.inference_mode():
            inside = engine.loop.model(torch.tensor([tokens]), use_cache=True).past_key_values
        fused = [
            states[0].transpose(0, 1) for one in inside.layers for states in (one.keys, one.values)
        ]
        await idle(engine)
        # What the fused weights compute does not lie there either, partial block included.
        assert found(pool(engine), fused) == 0
        engine.check()


@BOTH
async def test_while_a_request_runs_only_the_partial_block_of_matrix_is_as_computed(
    tiny_dir: Path, cloak: CloakSettings
) -> None:
    from safekv.engines.base import GenerationRequest

    async with running(tiny_dir, Mode.ISOLATED, cloak=cloak) as engine:
        tokens = prompt(engine, 2 * BLOCK + 10)
        with torch.inference_mode():
            inside = engine.loop.model(torch.tensor([tokens]), use_cache=True).past_key_values
        keys = inside.layers[1].keys[0].transpose(0, 1)
        request = GenerationRequest(
            tenant=TenantId("a"), token_ids=tokens, max_tokens=BLOCK * 4, temperature=0
        )
        stream = engine.generate(request)
        await anext(stream)
        with engine.loop.pause():
            hits = [
                found(pool(engine), [keys[: 2 * BLOCK]]),
                found(pool(engine), [keys[2 * BLOCK :]]),
            ]
        assert hits == [0, 20 if cloak is MATRIX else 0]
        await stream.aclose()
        await ask(engine, "b", prompt(engine, 5), 1)
        await idle(engine)
        assert found(pool(engine), [keys]) == 0


@BOTH
async def test_equal_blocks_look_different(tiny_dir: Path, cloak: CloakSettings) -> None:
    """One text computed three times lies in the pool in three ways."""
    async with running(tiny_dir, Mode.ISOLATED, cloak=cloak) as engine:
        tokens, looks = prompt(engine, BLOCK + 1), list[torch.Tensor]()
        for _ in range(3):
            await ask(engine, "a", tokens, 1)
            await idle(engine)
            lease = engine.warden.admit(
                TenantId("a"), b"".join(t.to_bytes(4, "little") for t in tokens)
            )
            looks.append(pool(engine)[lease.blocks[0]].clone())
            engine.warden.release(lease)
            await engine.lapse(TenantId("a"))
        for n, one in enumerate(looks):
            for other in looks[:n]:
                # Half of all bits, or nearly all numbers.
                assert (one != other).float().mean() > 0.5


@BOTH
@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
async def test_answers_survive_memory_pressure(
    tiny_dir: Path, mode: Mode, cloak: CloakSettings
) -> None:
    """Evictions and set-backs while many requests run: blocks are taken over again and again."""
    heard, rng = Heard(), random.Random(5)
    blocks = 48 if mode is Mode.SELECTIVE else 24
    async with running(tiny_dir, mode, capacity_blocks=blocks, events=heard, cloak=cloak) as engine:
        common = prompt(engine, 2 * BLOCK)
        prompts = [
            common + [rng.randrange(100, 40_000) for _ in range(rng.randrange(10, 160))]
            for _ in range(16)
        ]
        answers = await asyncio.gather(
            *(ask(engine, "abc"[n % 3], p, max_tokens=40) for n, p in enumerate(prompts))
        )
        for tokens, answer in zip(prompts, answers, strict=True):
            assert answer.text == expected(engine, tokens, 40)
        await idle(engine)
        engine.check()
    assert heard.of(Evicted)


@BOTH
async def test_tiers_hold_nothing_in_the_clear_and_give_it_back(
    tiny_dir: Path, tmp_path: Path, cloak: CloakSettings
) -> None:
    """Host memory keeps blocks obfuscated; the disk gets them sealed, and obfuscates what comes."""
    tiers = TiersConfig(
        host_blocks=14, disk_blocks=200, disk_path=tmp_path, queue_blocks=400, read_limit_s=60.0
    )
    async with running(
        tiny_dir,
        Mode.ISOLATED,
        capacity_blocks=24,
        tiers=tiers,
        sealer=Vault.ephemeral(),
        cloak=cloak,
    ) as engine:
        tokens = prompt(engine, 12 * BLOCK + 1)
        truth = expected(engine, tokens, 6)
        parts = computed(tiny_dir, tokens[:BLOCK])
        assert (await ask(engine, "a", tokens)).text == truth
        await idle(engine)
        await engine.lapse(TenantId("a"))
        again = await ask(engine, "a", tokens)
        assert (again.text, again.cached_tokens) == (truth, 12 * BLOCK)
        mover: Any = cache_of(engine)._mover
        assert found(mover._host, parts) == 0
        for n in range(3):
            await ask(engine, "a", prompt(engine, 12 * BLOCK + 41 + 40 * n)[40 * (n + 1) :], 2)
        await idle(engine)
        await until(lambda: engine.tiers_backlog() == 0)
        again = await ask(engine, "a", tokens)
        assert (again.text, again.cached_tokens) == (truth, 12 * BLOCK)
        assert engine.warden.tiers is not None
        assert engine.warden.tiers.stats().read >= 8
        assert found(mover._host, parts) == 0
        assert found(pool(engine), parts) == 0
        await idle(engine)
        engine.check()


async def test_the_disk_outlives_the_stream(tiny_dir: Path, tmp_path: Path) -> None:
    """Its key ends with the process; what the vault sealed does not need it."""
    sealer = Vault.ephemeral()
    tiers = TiersConfig(
        host_blocks=14, disk_blocks=200, disk_path=tmp_path, queue_blocks=400, read_limit_s=60.0
    )
    for cloak in (STREAM, STREAM, None):
        async with running(
            tiny_dir, Mode.ISOLATED, capacity_blocks=24, tiers=tiers, sealer=sealer, cloak=cloak
        ) as engine:
            tokens = prompt(engine, 12 * BLOCK + 1)
            found_tokens = (await ask(engine, "a", tokens)).cached_tokens
            for n in range(3):
                await ask(engine, "a", prompt(engine, 12 * BLOCK + 41 + 40 * n)[40 * (n + 1) :], 2)
            await idle(engine)
            await until(lambda e=engine: e.tiers_backlog() == 0)
            assert (await ask(engine, "a", tokens)).text == expected(engine, tokens, 6)
    assert found_tokens == 12 * BLOCK


async def test_keys_of_matrix(tiny_dir: Path, tmp_path: Path) -> None:
    """A key file, a newer version of it, and a checkpoint that is fused already."""
    from safekv.cloak.fusion import fuse_checkpoint

    file = CloakKeyFile(tmp_path / "cloak-key.json")
    missing = CloakSettings(profile=CloakProfile.MATRIX, key_file=file.path)
    with pytest.raises(ConfigError, match="no cloak key"):
        async with running(tiny_dir, Mode.ISOLATED, cloak=missing):
            pass
    first = file.create()
    fused = tmp_path / "fused"
    fuse_checkpoint(tiny_dir, fused, first, 1.5, lambda done, total: None)
    file.rotate()
    weights = []
    async with running(tiny_dir, Mode.ISOLATED) as engine:
        tokens = prompt(engine, 80)
        truth = expected(engine, tokens, 20)
    for source in (tiny_dir, fused):
        async with running(source, Mode.ISOLATED, cloak=missing) as engine:
            for _ in range(2):
                assert (await ask(engine, "a", tokens, 20)).text == truth
            weights.append(engine.loop.model.model.layers[0].self_attn.k_proj.weight.clone())
    assert not torch.equal(*weights), "the newest key, and the one the checkpoint was fused with"


async def test_models_that_cannot_be_fused_are_refused_for_matrix_and_served_with_stream(
    tiny_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=49152, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="normalises queries and keys"):
        async with running(tmp_path, Mode.ISOLATED, cloak=MATRIX):
            pass
    async with running(tmp_path, Mode.ISOLATED, cloak=STREAM) as engine:
        tokens = prompt(engine, 70)
        for _ in range(2):
            assert (await ask(engine, "a", tokens)).text == expected(engine, tokens, 6)


async def test_transformers_may_not_copy_blocks_from_request_to_request(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.ISOLATED, cloak=STREAM) as engine:
        with pytest.raises(IsolationBroken):
            cache_of(engine).perform_cache_copy({"full_attention": ([1], [2])})
