"""Masked release on a running engine: what is told, when answers go out, and who leaves early."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from safekv.cache import CacheConfig, TiersConfig
from safekv.detect.config import DetectConfig
from safekv.engines.base import GenerationRequest
from safekv.engines.hf.config import HFConfig
from safekv.engines.hf.engine import HFEngine
from safekv.engines.hf.held import HeldOutput
from safekv.engines.hf.leaving import LEAVING_LIMIT, Leaving
from safekv.errors import ConfigError, EngineError, OverloadedError
from safekv.types import Mode, Release, TenantId, pack_tokens
from safekv.warden import WardenConfig
from support.engines import ClearAll, Heard, ask, idle, running, settled, until
from support.prompts import BLOCK, prompt

MASKED = WardenConfig(epoch_s=0.05, release=Release.MASKED)


class Steady:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_s(self) -> float:
        return self.s


def output(n_tokens: int, *, finished: bool = False) -> GenerationOutput:
    status = RequestStatus.FINISHED if finished else RequestStatus.DECODING
    return GenerationOutput("r", generated_tokens=list(range(n_tokens)), status=status)


def alive() -> bool:
    return True


# -- holding -----------------------------------------------------------------------------------


async def test_tokens_that_came_meanwhile_keep_their_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held by 10, an answer whose tokens came 1 apart goes out 1 apart, with no burst."""
    clock, slept = Steady(), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        clock.s += seconds

    held = HeldOutput(lambda: 10.0, clock)
    for n in range(4):
        clock.s = float(n)
        held.put(output(n + 1, finished=n == 3))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    seen = [(await held.get(alive), clock.s) for _ in range(4)]
    assert [(len(one.generated_tokens), at) for one, at in seen] == [
        (1, 10.0),
        (2, 11.0),
        (3, 12.0),
        (4, 13.0),
    ]
    assert [one.is_finished() for one, _ in seen] == [False, False, False, True]
    assert slept == [7.0, 1.0, 1.0, 1.0]


async def test_an_answer_that_is_late_goes_out_at_once() -> None:
    clock = Steady()
    held = HeldOutput(lambda: 10.0, clock)
    clock.s = 12.0
    held.put(output(1))
    assert len((await held.get(alive)).generated_tokens) == 1


async def test_a_slow_reader_gets_what_is_due_in_one_piece() -> None:
    clock = Steady()
    held = HeldOutput(lambda: 0.0, clock)
    for n in range(3):
        held.put(output(n + 1))
    assert len((await held.get(alive)).generated_tokens) == 3


async def test_a_dead_engine_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safekv.engines.hf.held.HEARTBEAT_S", 0.01)
    with pytest.raises(EngineError, match="has stopped"):
        await HeldOutput(lambda: 0.0, Steady()).get(lambda: False)


# -- the engine --------------------------------------------------------------------------------


async def test_a_masked_hit_saves_computing_and_is_told_as_a_miss(tiny_dir: Path) -> None:
    heard = Heard()
    async with running(tiny_dir, Mode.SELECTIVE, warden=MASKED, events=heard) as engine:
        assert engine.health()["release"] == "masked"
        tokens = prompt(engine, 6 * BLOCK + 3)
        first = await ask(engine, "a", tokens)
        await settled(engine, 6)
        other = await ask(engine, "b", tokens)
        assert (other.text, other.cached_tokens) == (first.text, 0)
        hits = [event.hit_tokens for event in heard.events if type(event).__name__ == "Admitted"]
        assert hits == [0, 6 * BLOCK], "the second was not computed again"
        again = await ask(engine, "b", tokens)
        assert (again.text, again.cached_tokens) == (first.text, 6 * BLOCK)
        assert engine.warden.schedule is not None
        assert engine.warden.schedule.counts().answers == 3
        await idle(engine)
        engine.check()


async def test_a_hit_and_a_miss_are_due_at_the_same_time(tiny_dir: Path) -> None:
    """Counted on the admission: both are held for as long as the visible prompt takes."""
    async with running(tiny_dir, Mode.SELECTIVE, warden=MASKED) as engine:
        shared, other = prompt(engine, 6 * BLOCK + 3), prompt(engine, 6 * BLOCK + 3)[::-1]
        await ask(engine, "a", shared)
        await settled(engine, 6)
        holds = []
        admissions = engine.loop.admissions
        for tenant, tokens in (("b", shared), ("c", other)):
            task = asyncio.create_task(ask(engine, tenant, tokens))
            await until(lambda: bool(admissions.by_id))
            (admission,) = admissions.by_id.values()
            await task
            schedule = engine.warden.schedule
            assert schedule is not None
            due = admission.scheduled_s + schedule.hold_s(len(tokens), 0)
            holds.append(admission.due_s >= due - 1e-9)
            assert admission.cached_tokens == 0
        assert holds == [True, True]


async def test_a_client_that_hangs_up_leaves_the_same_behind(tiny_dir: Path) -> None:
    """The request runs on to its first token, hit or miss: then its whole prompt is stored."""
    async with running(tiny_dir, Mode.SELECTIVE, warden=MASKED, max_batch_tokens=64) as engine:
        shared, other = prompt(engine, 6 * BLOCK + 3), prompt(engine, 6 * BLOCK + 3)[::-1]
        await ask(engine, "a", shared)
        await settled(engine, 6)
        left = []
        for tenant, tokens in (("b", shared), ("c", other)):
            request = GenerationRequest(
                tenant=TenantId(tenant), token_ids=tokens, max_tokens=8, temperature=0
            )
            reading = asyncio.create_task(anext(engine.generate(request)))
            await asyncio.sleep(0)
            await until(lambda: bool(engine.loop.admissions.by_id))
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await idle(engine)
            lease = engine.warden.admit(TenantId(tenant), pack_tokens(tokens))
            left.append((lease.own_blocks, engine.warden.visible_blocks(lease)))
            engine.warden.release(lease)
            left.append((engine.warden.usage(TenantId(tenant)).charged_blocks, 0))
        assert left[:2] == left[2:]
        assert left[0] == (6, 6)
        engine.check()


async def test_stopping_ends_what_is_leaving(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.SELECTIVE, warden=MASKED) as engine:
        request = GenerationRequest(
            tenant=TenantId("a"), token_ids=prompt(engine, 200), max_tokens=50, temperature=0
        )
        stream = engine.generate(request)
        reading = asyncio.create_task(anext(stream))
        await until(lambda: bool(engine.loop.admissions.by_id))
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await stream.aclose()
    assert not engine.loop.admissions.by_id


async def test_hanging_up_is_no_way_around_a_tenants_limits() -> None:
    leaving, gate = Leaving(), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    for _ in range(LEAVING_LIMIT):
        leaving.require_room(TenantId("a"))
        leaving.add(TenantId("a"), wait(), lambda: None)
    with pytest.raises(OverloadedError):
        leaving.require_room(TenantId("a"))
    leaving.require_room(TenantId("b"))
    gate.set()
    await until(lambda: leaving.waiting == 0)
    leaving.require_room(TenantId("a"))


async def test_what_is_stopped_before_it_began_to_wait_is_ended_too() -> None:
    leaving, ended = Leaving(), []

    async def wait() -> None:
        await asyncio.Event().wait()

    leaving.add(TenantId("a"), wait(), lambda: ended.append("a"))
    await leaving.stop()
    assert ended == ["a"]
    assert leaving.waiting == 0


async def test_a_stricter_mode_at_run_time(tiny_dir: Path) -> None:
    async with running(tiny_dir, Mode.SELECTIVE) as engine:
        tokens = prompt(engine, 4 * BLOCK + 3)
        await ask(engine, "a", tokens)
        await settled(engine, 4)
        assert engine.set_mode(Mode.ISOLATED) == 4
        assert engine.health()["mode"] == "isolated"
        assert (await ask(engine, "b", tokens)).cached_tokens == 0
        assert engine.shared_blocks() == 0
        await idle(engine)
        engine.check()


def test_masked_release_with_tiers_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match="release is masked and tiers"):
        HFEngine(
            "test",
            tiny_dir,
            engine=HFConfig(),
            cache=CacheConfig(capacity_blocks=64),
            warden=MASKED,
            detect=DetectConfig(),
            detector=ClearAll(),
            tiers=TiersConfig(host_blocks=8),
        )
