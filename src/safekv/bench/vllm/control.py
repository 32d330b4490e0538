"""What safekv adds to vLLM's control plane: per token, per call, stock and ours in turns.

vLLM's own scheduler and block pool without a model, in one process. CPU time of the calling
thread, so that other processes on the machine do not count; the best of all rounds.
"""

from __future__ import annotations

import gc
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.request import Request

from safekv.bench.vllm.rig import SECRET, Rig, RigPlan
from safekv.engines.vllm.hasher import ATTRIBUTE, keyed_of
from safekv.engines.vllm.index.wire import FRAME_BLOCKS, Kind, Link, Run, pack_run
from safekv.engines.vllm.keys import ROOT, BlockKeys
from safekv.engines.vllm.rename import Renamer
from safekv.types import Mode, TenantId, pack_tokens
from safekv.warden import WardenConfig

Progress = Callable[[int, int], None]
Row = dict[str, Any]

INPUT: Final = ("hash",)
"""Done in the thread that takes requests in."""

ENGINE: Final = ("add_request", "lookup_miss", "lookup_hit", "insert", "record", "computed", "free")
"""Done in the engine's thread, between two steps of the model."""

SHARE_OF_STOCK: Final = 0.10
ENGINE_NS_PER_TOKEN: Final = 5.0
STALL_MS: Final = 1.0
VOCABULARY: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlan:
    """Prompts of so many tokens, blocks of so many, and how often each is measured.

    A verdict about `stall_blocks` blocks with `stall_holders` holders each is applied in steps
    of `budget_us` microseconds.
    """

    tokens: tuple[int, ...] = (1024, 8192, 65_536, 131_072)
    block_tokens: tuple[int, ...] = (16, 32)
    rounds: int = 7
    stall_blocks: int = 8192
    stall_holders: int = 3
    budget_us: int = 300
    seed: int = 1


@dataclass(slots=True)
class Times:
    """The best CPU time of each call so far, in nanoseconds."""

    best: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time what happens within as a call of `name`."""
        began = time.thread_time_ns()
        yield
        took = time.thread_time_ns() - began
        self.best[name] = min(took, self.best.get(name, took))


class Sent:
    """Prompts that wait for an index; as cheap as the real client."""

    def put(self, tenant: TenantId, tokens: bytes) -> None:
        """Forget the prompt."""

    def stop(self) -> None:
        """Nothing to stop."""


def run(plan: ControlPlan, progress: Progress) -> Row:
    """Measure all sizes; about a minute on one quiet core for the default plan."""
    rows: list[Row] = []
    total = len(plan.block_tokens) * len(plan.tokens) + 1
    for block_tokens in plan.block_tokens:
        rigs = _rigs(max(plan.tokens), block_tokens)
        for tokens in plan.tokens:
            rows.append(_size(plan, rigs, tokens, block_tokens))
            progress(len(rows), total)
    stall = _stall(plan)
    progress(total, total)
    return {"part": "control", "rows": rows, "stall": stall, "bars": _bars(rows, stall)}


def _rigs(tokens: int, block_tokens: int) -> dict[str, Rig]:
    """Stock vLLM and ours, with room for a few prompts of `tokens` tokens."""
    rigs = {}
    for name, stock in (("stock", True), ("ours", False)):
        made = RigPlan(
            warden=WardenConfig(mode=Mode.SELECTIVE),
            block_tokens=block_tokens,
            blocks=3 * tokens // block_tokens + 64,
            prompt_tokens=tokens + 64,
            stock=stock,
        )
        rigs[name] = Rig(made)
        if not stock:
            rigs[name].keeper.index = Sent()
    return rigs


def _size(plan: ControlPlan, rigs: dict[str, Rig], tokens: int, block_tokens: int) -> Row:
    rng = random.Random(f"{plan.seed}:{tokens}")  # noqa: S311
    times = {name: Times() for name in rigs}
    for turn in range(plan.rounds):
        prompt = [rng.randrange(VOCABULARY) for _ in range(tokens + 1)]
        order = list(rigs) if turn % 2 else list(reversed(rigs))
        for name in order:
            _round(rigs[name], prompt, times[name])
    return _row(tokens, block_tokens, {name: one.best for name, one in times.items()})


def _round(rig: Rig, prompt: list[int], times: Times) -> None:
    """One prompt that is new, and the same again, call by call as the scheduler makes them."""
    manager: KVCacheManager = rig.scheduler.kv_cache_manager
    gc.collect()
    gc.disable()
    try:
        for kind in ("lookup_miss", "lookup_hit"):
            request = _hashed(rig, prompt, times)
            with times.of("add_request"):
                rig.scheduler.add_request(request)
            rig.scheduler.waiting.remove_requests([request])
            del rig.scheduler.requests[request.request_id]
            with times.of(kind):
                found, hit, _ = manager.get_computed_blocks(request)
            if request.prefill_stats is not None:
                request.prefill_stats.set(request.num_prompt_tokens, hit, 0)
            new = request.num_tokens - hit
            with times.of("insert" if kind == "lookup_miss" else "take_hit"):
                manager.allocate_slots(request, new, hit, found)
            with times.of("record"):
                manager.record_prefix_cache_stats(request, hit)
            if not rig.plan.stock:
                with times.of("computed"):
                    rig.keeper.computed(request)
            with times.of("free"):
                manager.free(request)
    finally:
        gc.enable()
    assert hit == len(prompt) // rig.plan.block_tokens * rig.plan.block_tokens


def _hashed(rig: Rig, prompt: list[int], times: Times) -> Request:
    request = rig.request("tenant", prompt)
    request.block_hashes = []
    if hasattr(request, ATTRIBUTE):
        delattr(request, ATTRIBUTE)
    with times.of("hash"):
        request.block_hashes = rig.hasher(request)
    return request


def _row(tokens: int, block_tokens: int, best: dict[str, dict[str, int]]) -> Row:
    ours, stock = best["ours"], best["stock"]
    added = {name: ours[name] - stock.get(name, 0) for name in ours}
    base = sum(stock[name] for name in ("hash", "lookup_hit", "insert"))
    whole = sum(added[name] for name in added if name != "lookup_miss")
    return {
        "tokens": tokens,
        "block_tokens": block_tokens,
        "stock_ns_per_token": {name: stock[name] / tokens for name in stock},
        "ours_ns_per_token": {name: ours[name] / tokens for name in ours},
        "added_ns_per_token": {name: added[name] / tokens for name in added},
        "added_of_stock": whole / base,
        "added_of_stock_without_hash": sum(
            added[name] for name in added if name not in ("lookup_miss", *INPUT)
        )
        / base,
    }


def _stall(plan: ControlPlan) -> Row:
    """How long the engine's thread stands still while a large verdict is applied.

    The frames come through a socket and another thread, as in a server, while steps go on.
    """
    rig = Rig(
        RigPlan(
            warden=WardenConfig(mode=Mode.SELECTIVE),
            block_tokens=16,
            blocks=plan.stall_blocks * plan.stall_holders + 64,
            prompt_tokens=16 * plan.stall_blocks + 64,
        )
    )
    keeper = rig.keeper
    keeper.index = Sent()
    keeper.renamer = Renamer(rig.pool, keeper.visible, plan.budget_us / 1e6)
    rng = random.Random(plan.seed)  # noqa: S311
    prompt = [rng.randrange(VOCABULARY) for _ in range(16 * plan.stall_blocks + 1)]
    tenants = [TenantId(f"t{n}") for n in range(plan.stall_holders)]
    for tenant in tenants:
        rig.send(tenant, prompt)
    frames = _frames(prompt, tenants)
    result: Row = {"blocks": plan.stall_blocks, "holders": plan.stall_holders}
    for kind, ordered in ((Kind.SHARED, frames), (Kind.PRIVATE, list(reversed(frames)))):
        result[kind.name.lower()] = _apply(rig, kind, ordered)
    keyed = keyed_of(rig.request(tenants[0], prompt))
    assert keyed is not None
    assert not keeper.visible.shared
    return result


def _frames(prompt: list[int], tenants: list[TenantId]) -> list[bytes]:
    keys, tokens, frames = BlockKeys(SECRET), pack_tokens(prompt), list[bytes]()
    public = keys.chain(ROOT, tokens, 16)
    private = [keys.private(keys.tenant(tenant), public) for tenant in tenants]
    for at in range(0, len(public), FRAME_BLOCKS):
        some = slice(at, at + FRAME_BLOCKS)
        parent = public[at - 1] if at else ROOT
        run = tokens[64 * at : 64 * (at + FRAME_BLOCKS)]
        run = run[: 64 * len(public[some])]
        frames.append(pack_run(16, parent, public[some], run, [one[some] for one in private]))
    return frames


def _apply(rig: Rig, kind: Kind, frames: list[bytes]) -> Row:
    """Steps until all is applied: how long safekv held each of them up, in wall and CPU time."""
    keeper = rig.keeper
    ours, theirs = map(Link, socket.socketpair())
    total = sum(len(Run(frame)) for frame in frames)

    def send() -> None:
        for frame in frames:
            theirs.send(kind, frame)

    def read() -> None:
        for _ in frames:
            keeper.hear(*ours.receive())

    threads = [threading.Thread(target=one) for one in (send, read)]
    for thread in threads:
        thread.start()
    done, wall, cpu = 0, list[float](), list[float]()
    before = keeper.renamer.looked_at
    # As vLLM does once its engine core is built, so that the collector does not walk it all.
    gc.collect()
    gc.freeze()
    while done < total:
        began, began_cpu = time.perf_counter(), time.thread_time()
        keeper.drain()
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.thread_time() - began_cpu))
        done = keeper.renamer.looked_at - before
        time.sleep(0.0005)  # the model runs
    gc.unfreeze()
    for thread in threads:
        thread.join()
    ours.close()
    theirs.close()
    return {
        "steps": len(wall),
        "us_per_block": 1e3 * sum(cpu) / total,
        "wall_ms_p50": _quantile(wall, 0.5),
        "wall_ms_p99": _quantile(wall, 0.99),
        "wall_ms_max": max(wall),
        "cpu_ms_max": max(cpu),
    }


def _quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def _bars(rows: list[Row], stall: Row) -> Row:
    engine = max(
        one["added_ns_per_token"][name]
        for one in rows
        for name in ENGINE
        if name in one["added_ns_per_token"] and one["tokens"] >= 65_536
    )
    worst = max(one["added_of_stock"] for one in rows)
    longest = max(stall[kind]["cpu_ms_max"] for kind in ("shared", "private"))
    return {
        "added_of_stock": {"worst": worst, "bar": SHARE_OF_STOCK, "met": worst <= SHARE_OF_STOCK},
        "engine_ns_per_token": {
            "worst": engine,
            "bar": ENGINE_NS_PER_TOKEN,
            "met": engine <= ENGINE_NS_PER_TOKEN,
        },
        "stall_cpu_ms": {"worst": longest, "bar": STALL_MS, "met": longest <= STALL_MS},
    }
