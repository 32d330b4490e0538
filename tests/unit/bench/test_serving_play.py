"""Modes take turns, what was finished is kept, and the summary is what the answers say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from safekv.bench.serving import play as playing
from safekv.bench.serving.engines import ENGINES, ModelChoice, Serving
from safekv.bench.serving.load import Answer, Endpoint
from safekv.bench.serving.plan import ServePlan, memory_plan
from safekv.bench.serving.play import order, run
from safekv.bench.serving.summary import own_cpu_share, throughput
from safekv.bench.serving.workloads import WORKLOADS, Turn
from safekv.bench.stats import clustered_ratio
from safekv.cli.main import run as command
from safekv.errors import ConfigError, EngineError

MODES = ("stock", "global", "isolated", "selective")
TTFT_S = {"stock": 0.1, "global": 0.1, "isolated": 0.4, "selective": 0.101}


class Host:
    """Serves nothing and notes what it is asked. In `dies_in` its process is lost."""

    modes = MODES
    block_tokens = 32
    about: dict[str, Any] = {"device": "none"}  # noqa: RUF012 - never changed

    def __init__(self, dies_in: str = "", interrupted_at: int = 10**9) -> None:
        self.opened: list[Serving] = []
        self._dies_in, self._interrupted_at = dies_in, interrupted_at

    def open(self, serving: Serving) -> Endpoint:
        if serving.mode == self._dies_in:
            raise EngineError("the server's process is lost")
        if len(self.opened) == self._interrupted_at:
            raise KeyboardInterrupt
        self.opened.append(serving)
        return Endpoint(serving.mode, "m", dict.fromkeys(serving.tenants, "k"))

    def mark(self) -> None: ...

    def settled(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        hits = {"isolated": 20, "selective": 70}.get(self.opened[-1].mode, 80)
        return {
            "cache": {"prompt_tokens": 100, "hit_tokens": hits, "promotions": []},
            "kv": {"kv_bytes": 1000, "kv_bytes_one_copy_per_tenant": 3000},
            "cpu": {
                "process_s": 9.95,
                "ours_s": 0.05,
                "detector_process_s": 0.05,
                "by_package_s": {"safekv.cache": 0.03, "safekv.gateway": 0.02},
                "sampler_s": 0.1,
            },
        }

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(
        endpoint: Endpoint, turns: Sequence[Turn], at_s: Sequence[float], timeout_s: float
    ) -> list[Answer]:
        await asyncio.sleep(0)
        ttft_s = TTFT_S[endpoint.url]
        return [
            Answer(turn.tenant, turn.first, at, at, at + ttft_s, at + ttft_s + 0.07, 92, 8)
            for turn, at in zip(turns, at_s, strict=True)
        ]

    monkeypatch.setattr(playing, "send", send)


def quick(**changes: Any) -> ServePlan:
    return ServePlan(workloads=["system"], settle_s=0, **changes)


def silent(_done: int, _total: int) -> None:
    return None


def test_every_seed_begins_with_another_mode_and_all_send_the_same() -> None:
    plan = quick()
    assert [step[2] for step in order(plan)][::4] == ["stock", "global", "isolated"]
    host = Host()
    result = run(host, plan, silent)
    assert len(host.opened) == 12
    assert all(serving.tenants == host.opened[0].tenants for serving in host.opened)
    sent = {
        (found["seed"], found["mode"]): [
            (row["tenant"], row["at_s"]) for row in found["phases"]["paced"]["answers"]
        ]
        for found in result["runs"]
    }
    assert all(sent[seed, mode] == sent[seed, "stock"] for seed, mode in sent)
    assert sent[0, "stock"] != sent[1, "stock"]


def test_the_states_of_a_detector_take_turns_with_the_modes() -> None:
    host = Host()
    plan = quick(modes=["global", "selective"], detectors=["on", "off", "dead"], seeds=1)
    result = run(host, plan, silent)
    assert [(one.mode, one.detector) for one in host.opened] == [
        ("global", "on"),
        ("selective", "on"),
        ("selective", "off"),
        ("selective", "dead"),
    ]
    assert set(result["workloads"]["system"]) == {
        *("global", "selective", "selective:off", "selective:dead"),
    }
    assert "selective:off/selective" in result["comparisons"]["system"]


def test_the_headline_is_what_the_answers_say() -> None:
    result = run(Host(), quick(), silent)
    assert not result["partial"]
    headline = result["headline"]
    assert headline["ttft_overhead_vs_global"] == pytest.approx(0.01)
    assert headline["ttft_saved_vs_isolation"] == pytest.approx(1 - 0.101 / 0.4)
    assert headline["throughput_vs_isolation"] == pytest.approx(0.47 / 0.171, rel=1e-4)
    assert headline["gap_recovered"] == pytest.approx(50 / 60, abs=1e-5)
    row = result["workloads"]["system"]["selective"]
    assert row["ttft_first_turn_s"]["n"] == 4 * 3
    assert row["ttft_s"]["p50"] == pytest.approx(0.101)
    assert row["ttft_s"]["p50_low"] <= row["ttft_s"]["p50"] <= row["ttft_s"]["p50_high"]
    assert row["tpot_s"]["p50"] == pytest.approx(0.01)
    assert row["hit_rate"] == 0.7
    assert row["own_cpu_share"] == 0.01
    assert row["kv_bytes"] == 1000
    assert set(row) >= {"ttft_first_turn_s", "ttft_s", "tpot_s", "throughput_tok_s", "hit_rate"}
    bars = {bar["bar"]: bar["verdict"] for bar in result["bars"]}
    assert bars["system: TTFT / global"] == "met"
    assert bars["system: throughput / isolated"] == "met"


def test_few_runs_leave_a_bar_open_and_one_beyond_its_interval_is_missed() -> None:
    TTFT_S["selective"] = 0.2
    try:
        result, short = (run(Host(), quick(seeds=n), silent) for n in (3, 2))
    finally:
        TTFT_S["selective"] = 0.101
    bars = {bar["bar"]: bar["verdict"] for bar in result["bars"]}
    assert bars["system: TTFT / global"] == "missed"
    assert bars["system: throughput / isolated"] == "missed"
    # Two runs say nothing, whatever their interval looks like.
    assert {bar["verdict"] for bar in short["bars"]} == {"open"}


def test_the_share_of_the_gap_is_of_the_runs_that_all_modes_have() -> None:
    cut = run(Host(interrupted_at=6), quick(), silent)
    assert [(found["seed"], found["mode"]) for found in cut["runs"]][4:] == [
        (1, "global"),
        (1, "isolated"),
    ]
    assert cut["headlines"]["system"]["gap_recovered"] == {
        "value": pytest.approx(50 / 60, abs=1e-5),
        "runs": 1,
    }


def test_an_interrupted_measurement_keeps_what_was_finished() -> None:
    result = run(Host(interrupted_at=5), quick(), silent)
    assert result["partial"]
    assert result["stopped"] == "interrupted"
    assert len(result["runs"]) == 5
    assert result["headline"]["ttft_overhead_vs_global"] is not None
    empty = run(Host(interrupted_at=0), quick(), silent)
    assert empty["partial"]
    assert empty["workloads"] == {}
    assert set(empty["headline"].values()) == {None}


def test_a_lost_server_ends_the_measurement_and_not_what_was_measured() -> None:
    result = run(Host(dies_in="isolated"), quick(), silent)
    assert result["stopped"] == "the server's process is lost"
    assert [found["mode"] for found in result["runs"]] == ["stock", "global"]
    late = run(Host(), quick(), silent, deadline_s=0.0)
    assert late["stopped"] == "out of time"


def test_failures_are_counted_and_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(
        endpoint: Endpoint, turns: Sequence[Turn], at_s: Sequence[float], timeout_s: float
    ) -> list[Answer]:
        failed = endpoint.url == "selective"
        return [
            Answer(t.tenant, t.first, at, at, None if failed and n else at + 0.1, at + 0.2, 9, 3,
                   "429" if failed and n else None)
            for n, (t, at) in enumerate(zip(turns, at_s, strict=True))
        ]  # fmt: skip

    monkeypatch.setattr(playing, "send", send)
    result = run(Host(), quick(seeds=1), silent)
    row = result["workloads"]["system"]["selective"]
    assert row["failed"] == 2 * 11
    assert row["ttft_s"]["n"] == 1
    # Only the request that both modes answered is compared.
    assert result["comparisons"]["system"]["selective/global"]["ttft_p50"]["value"] == 1


def test_memory_holds_everything_that_is_sent() -> None:
    script = WORKLOADS["system"].make(WORKLOADS["system"].size, "s")
    plan = memory_plan([script], 32)
    words = 2048 + 12 * 40
    assert plan.shared_blocks * 32 > words
    share = (plan.capacity_blocks - plan.shared_blocks) // 5  # the seeder has one too
    assert share * 32 > 2048 + 3 * 40
    assert plan.overcommit == 1
    less = memory_plan([script], 32, most_blocks=300)
    assert less.capacity_blocks == 300
    assert (300 - less.shared_blocks) // 5 * less.overcommit >= share


def test_answers_that_came_too_late_do_not_count_as_served_in_time() -> None:
    rows = [
        {"ttft_s": ttft, "end_s": end, "failed": None, "prompt_tokens": 90, "answer_tokens": 10}
        for ttft, end in ((0.5, 1.0), (1.5, 2.0), (3.5, 4.0))
    ]
    assert throughput({"answers": rows}) == 75
    assert throughput({"answers": rows}, slo_s=2.0) == 50
    assert throughput({"answers": []}) is None


def test_our_share_counts_the_detectors_process_on_both_sides() -> None:
    cpu = {"process_s": 9.0, "ours_s": 0.5, "detector_process_s": 1.0}
    assert own_cpu_share([{"cpu": cpu}]) == 0.15
    assert own_cpu_share([{"cpu": {}}]) is None


def test_runs_are_resampled_as_a_whole() -> None:
    ours = {0: [1.0] * 50, 1: [2.0] * 50, 2: [3.0] * 50}
    peer = {run: [1.0] * 50 for run in ours}
    found = clustered_ratio(ours, peer)
    assert found is not None
    assert (found.low, found.value, found.high) == (1.0, 2.0, 3.0)
    same = clustered_ratio(ours, ours)
    assert same is not None
    assert (same.low, same.value, same.high) == (1, 1, 1)
    assert clustered_ratio({0: [1.0]}, {1: [1.0]}) is None
    with pytest.raises(ValueError, match="different requests"):
        clustered_ratio({0: [1.0]}, {0: [1.0, 2.0]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workloads": ["x"]}, "there is no workload x"),
        ({"workloads": []}, "nothing is to be measured"),
        ({"seeds": 0}, "seeds is 0"),
        ({"tenants": 0}, "tenants is 0"),
        ({"rate": -1.0}, "rate is -1"),
        ({"slo_s": 0.0}, "slo_s is 0"),
        ({"detectors": ["asleep"]}, "detectors are asleep"),
    ],
)
def test_a_wrong_plan_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServePlan(**wrong)


def test_what_an_engine_cannot_do_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no mode sideways"):
        run(Host(), quick(modes=["sideways"]), silent)
    with pytest.raises(ConfigError, match="cannot measure vllm"):
        ENGINES["vllm"](ModelChoice(source="m", local=False), {})
    with pytest.raises(ConfigError, match="the trace has 2 requests, 12 are to be sent"):
        run(Host(), quick(times_s=[0.0, 1.0]), silent)


def test_the_command_refuses_vllm_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["bench", "serve", "--engine", "vllm"]) == 2
    assert "cannot measure vllm" in capsys.readouterr().err
