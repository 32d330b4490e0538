"""Plays each run in each mode, in turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from safekv.bench.serving.engines import EngineHost, Serving
from safekv.bench.serving.load import Answer, Endpoint, send
from safekv.bench.serving.plan import SELECTIVE, ServePlan, memory_plan, mode_and_detector
from safekv.bench.serving.summary import summarise
from safekv.bench.serving.workloads import Script, tenants_of
from safekv.errors import ConfigError, SafeKVError

POLL_S = 0.25
Report = Callable[[int, int], None]
Run = dict[str, Any]


def run(
    host: EngineHost,
    plan: ServePlan,
    report: Report,
    deadline_s: float | None = None,
) -> dict[str, Any]:
    """Measure all of `plan`, and summarise it as JSON types. Minutes.

    Interrupted by the keyboard, by the loss of the server, or past `deadline_s` (as
    `time.monotonic` counts), it returns what was finished, marked `partial`, with the reason in
    `stopped`.
    """
    unknown = sorted(set(plan.modes) - set(host.modes))
    if unknown:
        raise ConfigError(
            f"this engine has no mode {', '.join(unknown)}", f"use {', '.join(host.modes)}"
        )
    runs: list[Run] = []
    steps = list(order(plan))
    stopped = None
    try:
        for done, (workload, seed, side) in enumerate(steps):
            report(done, len(steps))
            if deadline_s is not None and time.monotonic() > deadline_s:
                stopped = "out of time"
                break
            runs.append(play(host, plan, workload, seed, side))
        report(len(steps), len(steps))
    except KeyboardInterrupt:
        stopped = "interrupted"
    except SafeKVError as error:
        if isinstance(error, ConfigError) and not runs:
            raise
        stopped = error.message
    return {
        "plan": plan.public(),
        "model": host.about,
        "partial": stopped is not None,
        "stopped": stopped,
        **summarise(runs, plan),
        "runs": runs,
    }


def order(plan: ServePlan) -> Sequence[tuple[str, int, str]]:
    """Workload, seed and side of each run. Each seed begins with another side."""
    steps = []
    for workload in plan.workloads:
        for n in range(plan.seeds):
            turn = n % len(plan.sides)
            sides = [*plan.sides[turn:], *plan.sides[:turn]]
            steps += [(workload, plan.first_seed + n, side) for side in sides]
    return steps


def play(host: EngineHost, plan: ServePlan, workload: str, seed: int, side: str) -> Run:
    """One run: a server with an empty cache, and every phase on it."""
    mode, detector = mode_and_detector(side)
    scripts = plan.scripts(workload, seed)
    names = sorted({name for script in scripts.values() for name in tenants_of(script)})
    memory = memory_plan(list(scripts.values()), host.block_tokens, plan.most_blocks)
    endpoint = host.open(
        Serving(
            mode=mode,
            tenants=names,
            capacity_blocks=memory.capacity_blocks,
            shared_blocks=memory.shared_blocks,
            overcommit=memory.overcommit,
            detector=detector,
            epoch_s=plan.epoch_s,
        )
    )
    phases = {}
    try:
        for phase, script in scripts.items():
            at_s = plan.arrivals(workload, phase).schedule(
                len(script.turns), f"{workload}/{seed}/{phase}"
            )
            phases[phase] = _phase(host, endpoint, plan, script, at_s, side)
    finally:
        host.close()
    return {
        "workload": workload,
        "seed": seed,
        "mode": side,
        "capacity_blocks": memory.capacity_blocks,
        "overcommit": memory.overcommit,
        "phases": phases,
    }


def _phase(
    host: EngineHost,
    endpoint: Endpoint,
    plan: ServePlan,
    script: Script,
    at_s: Sequence[float],
    side: str,
) -> dict[str, Any]:
    before: list[Any] = []
    if not plan.cold:
        host.mark()
        _warm(host, endpoint, plan, script, side)
        before = host.facts()["cache"].get("promotions", [])
    host.mark()
    began = time.perf_counter()
    answers = asyncio.run(send(endpoint, script.turns, at_s, plan.timeout_s))
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 4),
        "promotions_before": before,
        "answers": [_row(answer) for answer in answers],
        **host.facts(),
    }


def _warm(host: EngineHost, endpoint: Endpoint, plan: ServePlan, script: Script, side: str) -> None:
    """Send what is common, one after the other; then pause alike in every mode, and where blocks
    become shared at intervals until that has happened, or can no longer be waited for."""
    for turn in script.warm:
        asyncio.run(send(endpoint, [turn], [0.0], plan.timeout_s))
    time.sleep(plan.settle_s)
    mode, detector = mode_and_detector(side)
    if mode != SELECTIVE or detector in ("saturated", "dead"):
        return
    for _ in range(round(plan.settle_limit_s / POLL_S)):
        if host.settled():
            return
        time.sleep(POLL_S)


def _row(answer: Answer) -> dict[str, Any]:
    """One answer for the record: no text, no key."""
    return {
        "tenant": answer.tenant,
        "first": answer.first,
        "at_s": round(answer.at_s, 4),
        "late_s": None if answer.sent_s is None else round(answer.sent_s - answer.at_s, 4),
        "ttft_s": None if answer.ttft_s is None else round(answer.ttft_s, 4),
        "tpot_s": None if answer.tpot_s is None else round(answer.tpot_s, 5),
        "end_s": None if answer.end_s is None else round(answer.end_s, 4),
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "failed": answer.failed,
    }
