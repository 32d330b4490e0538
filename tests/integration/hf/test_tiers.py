"""Tiers on the real engine: what comes up from host memory or disk gives the same tokens."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from safekv.cache import TiersConfig
from safekv.cache.tiers import TiersStats
from safekv.engines.hf.engine import HFEngine
from safekv.errors import ConfigError
from safekv.types import Mode, TenantId
from safekv.vault import Vault
from support.disks import small_disk
from support.engines import ask, idle, running, until
from support.prompts import BLOCK, expected, prompt

CAPACITY = 24
PROMPT = 12 * BLOCK + 1
HOST = TiersConfig(host_blocks=64)


def tiers(path: Path, host_blocks: int = 14, disk_blocks: int = 200, **more: float) -> TiersConfig:
    """Host memory for one prompt, and a disk for all."""
    fields = {"queue_blocks": 400, "read_limit_s": 60.0, **more}
    return TiersConfig(
        host_blocks=host_blocks,
        disk_blocks=disk_blocks,
        disk_path=path,
        **fields,  # type: ignore[arg-type]
    )


def stats(engine: HFEngine) -> TiersStats:
    assert engine.warden.tiers is not None
    return engine.warden.tiers.stats()


def files_in(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


async def push_down(engine: HFEngine, tenant: str = "a", n: int = 3) -> None:
    """Other prompts of the tenant, which push what it sent before out of the upper tiers."""
    for k in range(n):
        await ask(engine, tenant, prompt(engine, PROMPT + 40 * (k + 1))[40 * (k + 1) :], 2)
    await idle(engine)


async def written(engine: HFEngine) -> None:
    await until(lambda: engine.tiers_backlog() == 0)


async def test_what_lapses_comes_back_from_host_memory(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=CAPACITY, tiers=HOST) as engine:
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        assert (await ask(engine, "a", tokens)).text == truth
        await push_down(engine)
        assert stats(engine).onloaded == 0
        again = await ask(engine, "a", tokens)
        assert (again.text, again.cached_tokens) == (truth, 12 * BLOCK)
        assert stats(engine).onloaded >= 10
        await idle(engine)
        engine.check()


async def test_nobody_finds_what_another_tenant_has_in_host_memory(tiny_dir: Path) -> None:
    roomy = TiersConfig(host_blocks=96)
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=48, tiers=roomy) as engine:
        engine.open([TenantId("a"), TenantId("b")])
        tokens = prompt(engine, PROMPT)
        await ask(engine, "a", tokens)
        await push_down(engine)
        assert (await ask(engine, "b", tokens)).cached_tokens == 0
        assert (await ask(engine, "a", tokens)).cached_tokens == 12 * BLOCK
        await idle(engine)
        engine.check()


async def test_from_disk_and_after_a_restart(tiny_dir: Path, tmp_path: Path) -> None:
    sealer = Vault.ephemeral()

    def start(tenants: int) -> contextlib.AbstractAsyncContextManager[HFEngine]:
        config = tiers(tmp_path, host_blocks=14 * tenants)
        return running(
            tiny_dir,
            Mode.ISOLATED,
            capacity_blocks=CAPACITY * tenants,
            tiers=config,
            sealer=sealer,
        )

    async with start(tenants=1) as engine:
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        await ask(engine, "a", tokens)
        await push_down(engine)
        again = await ask(engine, "a", tokens)
        assert (again.text, again.cached_tokens) == (truth, 12 * BLOCK)
        assert stats(engine).read >= 8
        await push_down(engine)
        await written(engine)
        engine.check()
    stored = [file.read_bytes() for file in files_in(tmp_path)]
    packed = b"".join(t.to_bytes(4, "little") for t in tokens[:BLOCK])
    assert stored
    assert not any(packed[:32] in content for content in stored)
    async with start(tenants=2) as engine:
        other = await ask(engine, "b", tokens)
        again = await ask(engine, "a", tokens)
        assert (other.text, other.cached_tokens) == (truth, 0)
        assert (again.text, again.cached_tokens) == (truth, 12 * BLOCK)
        assert stats(engine).damaged == 0
        await idle(engine)
        engine.check()


async def test_a_damaged_file_is_a_miss_and_is_counted(tiny_dir: Path, tmp_path: Path) -> None:
    async with running(
        tiny_dir, Mode.ISOLATED, capacity_blocks=CAPACITY, tiers=tiers(tmp_path),
        sealer=Vault.ephemeral(),
    ) as engine:  # fmt: skip
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        await ask(engine, "a", tokens)
        await push_down(engine)
        await written(engine)
        for n, file in enumerate(files_in(tmp_path)):
            content = bytearray(file.read_bytes())
            content[-100] ^= 1
            file.write_bytes(content if n % 2 else content[:-100])
        again = await ask(engine, "a", tokens)
        assert again.text == truth
        assert again.cached_tokens < 12 * BLOCK
        assert stats(engine).damaged
        await push_down(engine)
        healed = await ask(engine, "a", tokens)
        assert (healed.text, healed.cached_tokens) == (truth, 12 * BLOCK)
        await idle(engine)
        engine.check()


async def test_a_disk_that_refuses_writes_loses_cache_only(tiny_dir: Path, tmp_path: Path) -> None:
    async with running(
        tiny_dir, Mode.ISOLATED, capacity_blocks=CAPACITY, tiers=tiers(tmp_path),
        sealer=Vault.ephemeral(),
    ) as engine:  # fmt: skip
        # A file where the tenant's directory should be: every write of it fails.
        files = engine.loop.batch_processor.cache._mover._files
        files._of(TenantId("a")).touch()
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        for _ in range(2):
            assert (await ask(engine, "a", tokens)).text == truth
            await push_down(engine)
        await written(engine)
        assert (await ask(engine, "a", tokens)).text == truth
        assert stats(engine).damaged
        await idle(engine)
        engine.check()


async def test_a_full_disk_loses_cache_only(tiny_dir: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100_000) as disk:
        async with running(
            tiny_dir, Mode.ISOLATED, capacity_blocks=CAPACITY, tiers=tiers(disk.path),
            sealer=Vault.ephemeral(),
        ) as engine:  # fmt: skip
            tokens = prompt(engine, PROMPT)
            truth = expected(engine, tokens, 6)
            for _ in range(2):
                assert (await ask(engine, "a", tokens)).text == truth
                await push_down(engine)
            await written(engine)
            assert stats(engine).damaged, "the disk was never full"
            assert not list(disk.path.rglob("*.new"))
            # With room again, the next time the path goes down it is whole.
            disk.resize(64 << 20)
            for _ in range(2):
                assert (await ask(engine, "a", tokens)).text == truth
                await push_down(engine)
                await written(engine)
            healed = await ask(engine, "a", tokens)
            assert (healed.text, healed.cached_tokens) == (truth, 12 * BLOCK)
            await idle(engine)
            engine.check()


async def test_a_full_queue_drops_and_counts(tiny_dir: Path, tmp_path: Path) -> None:
    config = tiers(tmp_path, queue_blocks=1)
    async with running(
        tiny_dir, Mode.ISOLATED, capacity_blocks=CAPACITY, tiers=config, sealer=Vault.ephemeral()
    ) as engine:
        queue = engine.loop.batch_processor.cache._mover._queue
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        with queue._io:  # nothing is written meanwhile
            await ask(engine, "a", tokens)
            await push_down(engine)
        assert stats(engine).dropped
        assert (await ask(engine, "a", tokens)).text == truth
        await idle(engine)
        engine.check()


async def test_a_request_does_not_wait_for_the_disk_for_ever(
    tiny_dir: Path, tmp_path: Path
) -> None:
    config = tiers(tmp_path, read_limit_s=0.2)
    async with running(
        tiny_dir,
        Mode.ISOLATED,
        capacity_blocks=2 * CAPACITY,
        tiers=config,
        sealer=Vault.ephemeral(),
    ) as engine:
        engine.open([TenantId("a"), TenantId("b")])
        queue = engine.loop.batch_processor.cache._mover._queue
        tokens = prompt(engine, PROMPT)
        truth = expected(engine, tokens, 6)
        await ask(engine, "a", tokens)
        await push_down(engine)
        await written(engine)
        with queue._io:
            assert (await ask(engine, "b", tokens)).text == truth
            missed = await ask(engine, "a", tokens)
        assert missed.text == truth
        assert missed.cached_tokens < 12 * BLOCK
        await idle(engine)


async def test_forget_reaches_all_tiers(tiny_dir: Path, tmp_path: Path) -> None:
    sealer = Vault.ephemeral()
    async with running(
        tiny_dir, Mode.ISOLATED, capacity_blocks=2 * CAPACITY,
        tiers=tiers(tmp_path, host_blocks=28), sealer=sealer,
    ) as engine:  # fmt: skip
        engine.open([TenantId("a"), TenantId("b")])
        tokens = prompt(engine, PROMPT)
        for tenant in ("a", "b"):
            await ask(engine, tenant, tokens)
            await push_down(engine, tenant)
        await written(engine)
        before = len(files_in(tmp_path))
        await engine.forget(TenantId("a"))
        after = len(files_in(tmp_path))
        assert 0 < after < before
        assert [key.holder for key in sealer.list()] == ["tenant:b"]
        assert (await ask(engine, "a", tokens)).cached_tokens == 0
        assert (await ask(engine, "b", tokens)).cached_tokens == 12 * BLOCK
        await idle(engine)
        engine.check()


async def test_another_model_reads_none_of_the_files(tiny_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from safekv.engines.hf.tiers.fingerprint import fingerprint

    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    names = [fingerprint(model, tokenizer, (32, "float32"))]
    assert fingerprint(model, tokenizer, (32, "float32")) == names[0]
    names.append(fingerprint(model, tokenizer, (16, "float32")))
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[3, 5] += 1e-3
    names.append(fingerprint(model, tokenizer, (32, "float32")))
    names.append(fingerprint(model.bfloat16(), tokenizer, (32, "float32")))
    tokenizer.add_tokens(["<new>"])
    names.append(fingerprint(model, tokenizer, (32, "float32")))
    assert len(set(names)) == len(names)


async def test_nothing_reaches_the_disk_without_a_sealer(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing seals"):
        async with running(tiny_dir, Mode.ISOLATED, tiers=tiers(tmp_path)):
            pass


async def test_a_path_that_cannot_be_written_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"tiers\.disk_path"):
        async with running(
            tiny_dir, Mode.ISOLATED, tiers=tiers(tmp_path / "file"), sealer=Vault.ephemeral()
        ):
            pass


async def test_more_host_memory_than_there_is_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiers\.host_blocks"):
        async with running(tiny_dir, Mode.ISOLATED, tiers=TiersConfig(host_blocks=10**9)):
            pass


async def test_the_benchmark_finds_each_prompt_where_it_says(
    tiny_dir: Path, tmp_path: Path
) -> None:
    from safekv.bench.tiers import TiersPlan, run

    plan = TiersPlan(rounds=2, prompt_tokens=97)
    record = await run("tiny", tiny_dir, plan, disk=(tmp_path, Vault.ephemeral()))
    assert {name: len(times) for name, times in record["samples_s"].items()} == dict.fromkeys(
        ("miss", "device", "host", "disk"), 2
    )
