"""The embedded engine on real and tiny models: same tokens, right owner, no lost block."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from safekv.detect.base import Document, Finding
from safekv.engines.base import Chunk, GenerationRequest
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.paged import ClosedLedger, SelectiveCache
from safekv.errors import ConfigError, EngineError, IsolationBroken, ModelError, RequestError
from safekv.events import Admitted, DetectionFailed, Evicted
from safekv.types import Mode, TenantId, pack_tokens
from support.engines import Heard, ask, idle, running, settled, until
from support.prompts import BLOCK, PARAGRAPH, expected, prompt


@pytest.mark.model
@pytest.mark.parametrize("mode", list(Mode))
async def test_greedy_equals_generate_hit_or_miss(model_dir: Path, mode: Mode) -> None:
    """Token for token, for prompts around block edges, computed, own hit and other tenant."""
    async with running(model_dir, mode, max_batch_tokens=96) as engine:
        for n_tokens in (5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 200):
            tokens = prompt(engine, n_tokens)
            truth = expected(engine, tokens, 6)
            for tenant in ("a", "a", "b", "b"):
                assert (await ask(engine, tenant, tokens)).text == truth, (n_tokens, tenant)
        await idle(engine)
        engine.check()


@pytest.mark.model
async def test_who_hits_what(model_dir: Path) -> None:
    """Own blocks count as cached for their tenant; what others sent never shows in usage.

    Only in `unsafe-global` it does: there all tenants use one cache.
    """
    hits = {}
    for mode in (Mode.ISOLATED, Mode.SELECTIVE, Mode.UNSAFE_GLOBAL):
        async with running(model_dir, mode) as engine:
            tokens = prompt(engine, 4 * BLOCK + 3)
            first = await ask(engine, "a", tokens)
            if mode is Mode.SELECTIVE:
                await settled(engine, 4)
            lease = engine.warden.admit(
                TenantId("b"), b"".join(t.to_bytes(4, "little") for t in tokens)
            )
            hits[mode] = len(lease.blocks)
            engine.warden.release(lease)
            again, other, others_second = [await ask(engine, t, tokens) for t in ("a", "b", "b")]
            assert first.cached_tokens == 0
            assert again.cached_tokens == 4 * BLOCK
            unsafe = mode is Mode.UNSAFE_GLOBAL
            assert other.cached_tokens == (4 * BLOCK if unsafe else 0), mode
            assert others_second.cached_tokens == 4 * BLOCK
    assert hits == {Mode.ISOLATED: 0, Mode.SELECTIVE: 4, Mode.UNSAFE_GLOBAL: 4}


async def test_answers_stay_private_until_sent(tiny_dir: Path) -> None:
    """In selective mode generated tokens are never promoted, however often the epoch ticks."""
    async with running(tiny_dir, Mode.SELECTIVE) as engine:
        question = prompt(engine, 2 * BLOCK)
        request = GenerationRequest(
            tenant=TenantId("a"), token_ids=question, max_tokens=3 * BLOCK, temperature=0
        )
        async for _ in engine.generate(request):
            pass
        await settled(engine, 2)
        await asyncio.sleep(0.2)
        stats = engine.warden.stats()
        assert stats.blocks > 2, "the answer's blocks are kept for follow-ups"
        assert stats.shared_blocks == 2


async def test_nothing_is_promoted_without_a_verdict(tiny_dir: Path) -> None:
    """A detector that raises or answers short leaves everything private, and is counted."""

    class Broken:
        name = "broken"

        def judge(self, document: Document) -> list[Finding]:
            raise RuntimeError(document.text)

    heard = Heard()
    async with running(tiny_dir, Mode.SELECTIVE, detector=Broken(), events=heard) as engine:
        await ask(engine, "a", prompt(engine, 100))
        await asyncio.sleep(0.2)
        assert engine.shared_blocks() == 0
    failures = heard.of(DetectionFailed)
    assert [(f.stage, f.reason) for f in failures] == [("broken", "RuntimeError")]


async def test_start_leaves_nothing_behind(tiny_dir: Path) -> None:
    """The warm-up pass belongs to nobody, so it is not stored."""
    async with running(tiny_dir, Mode.UNSAFE_GLOBAL) as engine:
        assert engine.warden.stored_blocks() == 0
        engine.check()


async def test_transformers_own_prefix_cache_is_out_of_use(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.UNSAFE_GLOBAL) as engine:
        for tenant in "aab":
            await ask(engine, tenant, prompt(engine, 150))
        cache = engine.loop.batch_processor.cache
        assert isinstance(cache, SelectiveCache)
        (allocator,) = cache.cache_allocators.values()
        assert isinstance(allocator.ledger, ClosedLedger)
        assert not allocator.ledger.hash_to_block
        assert not allocator.ledger.block_to_hash


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_cancelled_requests_give_their_blocks_back(tiny_dir: Path, after: int) -> None:
    async with running(tiny_dir, Mode.ISOLATED) as engine:
        request = GenerationRequest(
            tenant=TenantId("a"),
            token_ids=prompt(engine, 300),
            max_tokens=1000,
            temperature=0,
        )
        stream = engine.generate(request)
        if after == 0:
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(after):
            await anext(stream)
        await stream.aclose()
        # One more answer shows that the loop goes on, and that the cancellation was heard.
        await ask(engine, "b", prompt(engine, 40))
        await idle(engine)
        engine.check()


@pytest.mark.parametrize("mode", list(Mode))
async def test_answers_survive_memory_pressure(tiny_dir: Path, mode: Mode) -> None:
    """Many tenants on few blocks: eviction and set-backs happen, and no answer changes."""
    heard, rng = Heard(), random.Random(5)
    # Eight blocks for each tenant, beside the pool: half where verdicts are enough, or a quarter.
    blocks = {Mode.SELECTIVE: 48, Mode.DECLARED: 32}.get(mode, 24)
    async with running(tiny_dir, mode, capacity_blocks=blocks, events=heard) as engine:
        common = prompt(engine, 2 * BLOCK)
        prompts = [
            common + [rng.randrange(100, 40_000) for _ in range(rng.randrange(10, 160))]
            for _ in range(24)
        ]
        answers = await asyncio.gather(
            *(ask(engine, "abc"[n % 3], p, max_tokens=40) for n, p in enumerate(prompts))
        )
        for tokens, answer in zip(prompts, answers, strict=True):
            assert answer.text == expected(engine, tokens, 40)
        await idle(engine)
        engine.check()
    assert heard.of(Evicted), "the test must press hard enough to evict"
    assert len(heard.of(Admitted)) == len(prompts), "every request is counted exactly once"


async def test_what_can_never_fit_is_refused_at_once(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=24) as engine:
        engine.open([TenantId(name) for name in "abc"])
        tokens = prompt(engine, 7 * BLOCK)
        with pytest.raises(RequestError, match="257 tokens, the tenant's cache holds 256"):
            await ask(engine, "a", tokens, max_tokens=BLOCK + 1)
        assert len((await ask(engine, "a", tokens, max_tokens=BLOCK)).text) > 0
        await idle(engine)


async def test_sampling_follows_temperature_and_top_p(tiny_dir: Path) -> None:
    """A tiny nucleus is greedy; a hot sample of 40 tokens is not."""
    async with running(tiny_dir, Mode.ISOLATED) as engine:
        tokens = prompt(engine, 20)
        greedy = await ask(engine, "a", tokens, 40)
        nucleus = await ask(engine, "a", tokens, 40, temperature=0.7, top_p=1e-6)
        hot = await ask(engine, "a", tokens, 40, temperature=2.0)
        assert nucleus.text == greedy.text
        assert hot.text != greedy.text


def test_selective_needs_a_detector(tiny_dir: Path) -> None:
    from safekv.cache import CacheConfig
    from safekv.detect.config import DetectConfig
    from safekv.engines.hf.config import HFConfig
    from safekv.warden import WardenConfig

    with pytest.raises(ConfigError, match="no detector"):
        HFEngine(
            "m",
            tiny_dir,
            engine=HFConfig(),
            cache=CacheConfig(),
            warden=WardenConfig(mode=Mode.SELECTIVE),
            detect=DetectConfig(),
        )


async def test_a_cache_larger_than_memory_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match="more than memory holds"):
        async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=100_000_000):
            pass


async def test_models_with_sliding_windows_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    """Their blocks cannot be shared by prefix, so starting says so instead of misbehaving."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=64,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="sliding"):
        async with running(tmp_path, Mode.ISOLATED):
            pass


async def test_disconnects_under_pressure_do_not_block_the_next_tenant(tiny_dir: Path) -> None:
    """After a set-back a tenant starts nothing until one of its own is done; none of these is."""
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=24) as engine:
        streams = []
        for n in range(3):
            request = GenerationRequest(
                tenant=TenantId("a"),
                token_ids=prompt(engine, 200 + n),
                max_tokens=500,
                temperature=0,
            )
            streams.append(engine.generate(request))
        readers = [asyncio.ensure_future(_read_until_cancelled(stream)) for stream in streams]
        scheduler = engine.loop.batch_processor.scheduler
        await until(lambda: bool(scheduler.set_back))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        async with asyncio.timeout(20):
            await ask(engine, "b", prompt(engine, 40))
        await idle(engine)
        engine.check()


async def _read_until_cancelled(stream: AsyncGenerator[Chunk, None]) -> None:
    async with contextlib.aclosing(stream) as chunks:
        async for _ in chunks:
            pass


async def test_a_request_as_large_as_the_cache_can_reuse_a_part_of_it(tiny_dir: Path) -> None:
    """A match inside a long run must not lock the rest of the run: nothing would fit any more."""
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=64) as engine:
        first = prompt(engine, 60 * BLOCK)
        second = first[: 2 * BLOCK] + [500 + n % 1000 for n in range(58 * BLOCK)]
        await ask(engine, "a", first)
        answer = await ask(engine, "a", second)
        assert answer.cached_tokens == 2 * BLOCK
        engine.check()


def test_documents_of_broken_text_stay_linear_and_whole(tiny_dir: Path) -> None:
    """Block ends never cut a character, and text that never becomes whole is marked, not held."""
    from transformers import AutoTokenizer

    from safekv.engines.hf.text import PromptText
    from safekv.warden import PromptJob

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    for text in ("\N{REPLACEMENT CHARACTER}" * 3000, "𝟒𝟓𝟑𝟗" * 40, "naïve 文字 🙂 " * 30):
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        for block in (1, 3, 32):
            job = PromptJob(TenantId("a"), pack_tokens(ids), len(ids) // block)
            document = PromptText(tokenizer, block).document(job)
            assert len(document.block_ends) == job.full_blocks
            if "\N{REPLACEMENT CHARACTER}" not in text:
                assert document.text == text
                for n, end in enumerate(document.block_ends, start=1):
                    whole = tokenizer.decode(ids[: n * block]).rstrip("\N{REPLACEMENT CHARACTER}")
                    assert end >= len(whole)


def test_both_ways_of_decoding_give_the_same_document(tiny_dir: Path) -> None:
    """The quick way, piece by piece, cuts text, blocks and messages where the exact way does."""
    from transformers import AutoTokenizer

    from safekv.engines.hf.text import PromptText

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    chat = [{"role": role, "content": f"  {PARAGRAPH}\n\tcafé 42 "} for role in ("system", "user")]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    for block in (5, 16, 32):
        text = PromptText(tokenizer, block)
        full = len(ids) // block
        quick, exact = text._pieced(list(ids), full), text._streamed(list(ids), full)
        assert exact.text == tokenizer.decode(ids, skip_special_tokens=False)
        assert len(exact.message_starts) >= 4
        if quick is not None:
            assert quick == exact
    assert text._pieced(list(ids), full) is not None, "the quick way must be taken at all"


async def test_a_tenant_that_fills_its_quota_delays_nobody_else(tiny_dir: Path) -> None:
    """Its requests wait and are set back; the other tenant's start and finish meanwhile."""
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=48) as engine:
        engine.open([TenantId("greedy"), TenantId("modest")])
        scheduler = engine.loop.batch_processor.scheduler
        long = [
            asyncio.ensure_future(ask(engine, "greedy", prompt(engine, 200 + n), 400))
            for n in range(4)
        ]
        await until(lambda: bool(scheduler.set_back))
        short = [await ask(engine, "modest", prompt(engine, 120 + n), 8) for n in range(5)]
        assert not any(task.done() for task in long), "the test must ask while the other is full"
        answers = [await task for task in long]
        for n, answer in enumerate(short):
            assert answer.text == expected(engine, prompt(engine, 120 + n), 8)
        for n, answer in enumerate(answers):
            assert answer.text == expected(engine, prompt(engine, 200 + n), 400)
        await idle(engine)
        engine.check()


async def test_what_a_tenant_keeps_does_not_depend_on_the_others(tiny_dir: Path) -> None:
    """A flood of another tenant evicts nothing of one that stays within its quota."""
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=48) as engine:
        engine.open([TenantId("a"), TenantId("flood")])
        mine = prompt(engine, 10 * BLOCK + 1)
        await ask(engine, "a", mine, 2)
        for n in range(12):
            await ask(engine, "flood", prompt(engine, 15 * BLOCK + n)[n:], 2)
        assert (await ask(engine, "a", mine, 2)).cached_tokens == 10 * BLOCK
        await idle(engine)
        engine.check()


async def test_a_tenants_limit_is_what_it_may_hold(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=48) as engine:
        engine.open([TenantId("a"), TenantId("b"), TenantId("c")])
        assert engine.limit_tokens(TenantId("a")) == 16 * BLOCK
        whole = prompt(engine, 16 * BLOCK - 8)
        assert (await ask(engine, "a", whole, 8)).text == expected(engine, whole, 8)
        await idle(engine)
        engine.check()


async def test_memory_that_a_late_tenant_takes_is_won_back(tiny_dir: Path) -> None:
    """Shares shrink while a request runs under the old one: nobody fails, nothing is lost."""
    async with running(tiny_dir, Mode.ISOLATED, capacity_blocks=40) as engine:
        early = asyncio.ensure_future(ask(engine, "early", prompt(engine, 30 * BLOCK), 200))
        await until(lambda: engine.warden.stats().blocks >= 30)
        late = await ask(engine, "late", prompt(engine, 12 * BLOCK), 30)
        first = await early
        assert late.text == expected(engine, prompt(engine, 12 * BLOCK), 30)
        assert first.text == expected(engine, prompt(engine, 30 * BLOCK), 200)
        await idle(engine)
        engine.check()


async def test_a_broken_invariant_stops_the_engine(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the tree cannot be trusted nobody is served from it, and health says so."""

    def broken(*_: object) -> None:
        raise IsolationBroken("prefix tree: a shared node lies below a private one")

    async with running(tiny_dir, Mode.ISOLATED) as engine:
        assert engine.healthy()
        monkeypatch.setattr(engine.warden, "store", broken)
        with pytest.raises(EngineError):
            await ask(engine, "a", prompt(engine, 2 * BLOCK))
        await until(lambda: not engine.healthy())
        with pytest.raises(EngineError):
            await ask(engine, "b", prompt(engine, 8))


async def test_a_reset_of_the_cache_forgets_what_is_shared_too(tiny_dir: Path) -> None:
    """Whatever was stored must not be read from a pool that starts anew."""
    async with running(tiny_dir, Mode.SELECTIVE) as engine:
        tokens = prompt(engine, 3 * BLOCK + 1)
        await ask(engine, "a", tokens)
        await settled(engine, 3)
        await idle(engine)
        engine.loop.batch_processor.cache.free_all_requests(clear_ledgers=True)
        assert engine.warden.stats().blocks == 0
        assert (await ask(engine, "a", tokens)).cached_tokens == 0
        await idle(engine)
        engine.check()
