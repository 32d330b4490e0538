"""The load is open-loop: what is sent, and when, never depends on what came back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from safekv.bench.serving.arrivals import AT_ONCE, Arrivals
from safekv.bench.serving.load import Endpoint, send
from safekv.bench.serving.prose import prose
from safekv.bench.serving.workloads import (
    SEEDER,
    WORKLOADS,
    Script,
    Size,
    Turn,
    demand_words,
    tenants_of,
)
from safekv.errors import ConfigError

STALL_S = 0.4


class Server:
    """Answers chat requests one at a time; the first one stalls. Keeps what it was sent."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[dict[str, object]] = []
        self.keys: list[str] = []
        self._status = status
        self._turn = asyncio.Lock()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(
            line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if ": " in line
        )
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.bodies.append(body)
        self.keys.append(fields["authorization"])
        async with self._turn:
            if len(self.bodies) == 1 or body["messages"][0]["content"] == "stall":
                await asyncio.sleep(STALL_S)
        events = [
            {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]},
            {"choices": [{"delta": {}, "finish_reason": "length"}]},
            {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        writer.write(
            f"HTTP/1.1 {self._status} X\r\nconnection: close\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Endpoint]:
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield Endpoint(f"http://127.0.0.1:{port}/v1", "m", {"t0": "k0", "t1": "k1"})


def turn(text: str, tenant: str = "t0", first: bool = False) -> Turn:
    return Turn(tenant, ({"role": "user", "content": text},), first, 2)


async def test_a_server_that_stalls_cannot_hold_back_what_would_show_it() -> None:
    """Coordinated omission: five requests are due while the first one stalls. All count it."""
    server = Server()
    async with serving(server) as endpoint:
        at_s = [0.0, 0.05, 0.1, 0.15, 0.2]
        answers = await send(endpoint, [turn("stall"), *[turn("x")] * 4], at_s, 30)
    assert [answer.failed for answer in answers] == [None] * 5
    assert all(answer.sent_s is not None and answer.sent_s < STALL_S for answer in answers)
    waited = [answer.ttft_s for answer in answers]
    # Each waits for the rest of the stall: what a client that waits for answers would never see.
    assert all(
        found is not None and found >= STALL_S - at for found, at in zip(waited, at_s, strict=True)
    )


async def test_latency_counts_from_the_scheduled_time_and_not_from_sending() -> None:
    server = Server()
    async with serving(server) as endpoint:
        (answer,) = await send(endpoint, [turn("x")], [-1.0], 30)
    assert answer.ttft_s is not None
    assert answer.sent_s is not None
    assert answer.ttft_s > 1.0 + answer.sent_s


async def test_each_turn_goes_out_with_its_tenants_key_and_comes_back_counted() -> None:
    server = Server()
    async with serving(server) as endpoint:
        answers = await send(endpoint, [turn("x"), turn("y", "t1", True)], [0.0, 0.05], 30)
    assert server.keys == ["bearer k0", "bearer k1"]
    assert [body["temperature"] for body in server.bodies] == [0, 0]
    assert [(a.prompt_tokens, a.answer_tokens, a.first) for a in answers] == [
        (7, 2, False),
        (7, 2, True),
    ]
    assert all(a.tpot_s is not None and a.tpot_s >= 0 for a in answers)


async def test_a_failure_is_an_answer_and_the_others_go_on() -> None:
    async with serving(Server(status=429)) as endpoint:
        (refused,) = await send(endpoint, [turn("x")], [0.0], 30)
    assert refused.failed == "429"
    assert refused.ttft_s is None
    nobody = Endpoint("http://127.0.0.1:9/v1", "m", {"t0": "k0"})
    (lost,) = await send(nobody, [turn("x")], [0.0], 30)
    assert lost.failed == "ConnectError"


def test_poisson_arrivals_have_the_rate_and_are_the_same_for_a_seed() -> None:
    times = Arrivals(5.0).schedule(4000, "a")
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(800, rel=0.1)
    gaps = [b - a for a, b in pairwise(times)]
    # Exponential: as much spread as mean, and not a clock.
    assert sum(gap > 0.4 for gap in gaps) / len(gaps) == pytest.approx(0.135, abs=0.03)
    assert times == Arrivals(5.0).schedule(4000, "a") != Arrivals(5.0).schedule(4000, "b")
    assert Arrivals(AT_ONCE).schedule(3, "a") == [0, 0, 0]


def test_a_traces_gaps_are_kept_and_scaled() -> None:
    trace = [0.0, 1.0, 1.0, 10.0]
    assert Arrivals(3.0, trace).schedule(4, "a") == [0.0, 0.1, 0.1, 1.0]
    with pytest.raises(ConfigError, match="the trace has 4 requests, 5 are to be sent"):
        Arrivals(3.0, trace).schedule(5, "a")
    with pytest.raises(ConfigError, match="the same time"):
        Arrivals(3.0, [2.0, 2.0])
    with pytest.raises(ConfigError, match="rate is 0"):
        Arrivals(0)


SIZE = Size(tenants=3, turns=2, common_words=120, answer_tokens=4)


def common_words(script: Script) -> float:
    """How much of what tenants send somebody else sends too, as the start of a prompt."""
    each = sum(
        demand_words([t for t in script.turns if t.tenant == name])
        for name in tenants_of(script)
        if name != SEEDER
    )
    return 1 - demand_words(script.turns) / each


def test_workloads_have_the_shapes_they_are_named_for() -> None:
    shares = {name: common_words(workload.make(SIZE, "s")) for name, workload in WORKLOADS.items()}
    assert shares["control"] == 0
    assert shares["system"] > 0.35
    assert shares["chat"] > 0.2
    assert shares["documents"] > 0.1
    assert shares["agent"] > 0.1


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_fixed_by_its_seed_and_every_tenant_begins_once(name: str) -> None:
    script = WORKLOADS[name].make(SIZE, "s")
    assert script == WORKLOADS[name].make(SIZE, "s")
    other = WORKLOADS[name].make(SIZE, "other")
    assert demand_words([*script.turns, *other.turns]) == demand_words(script.turns) + demand_words(
        other.turns
    )
    assert len(script.turns) == 6
    assert sorted(turn.tenant for turn in script.turns if turn.first) == [
        f"tenant-{n}" for n in range(3)
    ]
    assert {turn.tenant for turn in script.warm} == {SEEDER}
    assert "words" not in repr(script)
    assert "clerk" not in repr(script)


def test_a_conversation_grows_by_what_was_said() -> None:
    turns = [t for t in WORKLOADS["chat"].make(SIZE, "s").turns if t.tenant == "tenant-0"]
    first, second = (turn.messages for turn in turns)
    assert second[: len(first)] == first
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]


def test_prose_is_as_long_as_asked_and_clean() -> None:
    from safekv.detect.base import Document
    from safekv.detect.config import DetectConfig
    from safekv.detect.rules import RuleDetector
    from safekv.types import Verdict

    text = prose("seed", 500)
    assert 500 <= len(text.split()) < 520
    detector = RuleDetector.from_config(DetectConfig())
    (clean,) = detector.judge(Document(text, (len(text) - 100,)))
    assert clean.verdict is Verdict.SHAREABLE
    secret = next(
        turn.messages[-1]["content"]
        for turn in WORKLOADS["system"].make(SIZE, "s").turns
        if "4111" in turn.messages[-1]["content"]
    )
    (found,) = detector.judge(Document(secret + text, (len(secret),)))
    assert found.verdict is Verdict.PRIVATE
