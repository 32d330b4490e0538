"""`bench serve` against a real server in each mode: a small random model, real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safekv.bench.serving.engines import EngineHost, ModelChoice, hf_host
from safekv.bench.serving.plan import ServePlan
from safekv.bench.serving.play import run
from safekv.errors import EngineError

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def host(model_dir: Path) -> Iterator[EngineHost]:
    choice = ModelChoice(source=str(model_dir), local=True, shape="toy")
    with hf_host(choice, {"threads": 1}) as started:
        yield started


def plan(**changes: object) -> ServePlan:
    small = {"seeds": 1, "tenants": 2, "turns": 2, "common_words": 160, "answer_tokens": 3}
    return ServePlan(**{"workloads": ["system"], "rate": 20.0, "settle_s": 0.2} | small | changes)  # type: ignore[arg-type]


def silent(_done: int, _total: int) -> None:
    return None


def test_every_mode_finds_what_it_may_and_nothing_fails(host: EngineHost) -> None:
    result = run(host, plan(), silent)
    assert result["stopped"] is None
    modes = result["workloads"]["system"]
    assert {row["failed"] for row in modes.values()} == {0}
    rates = {mode: row["hit_rate"] for mode, row in modes.items()}
    # Greedy and fixed: the same prompts in the same order find the same blocks.
    assert rates["stock"] == rates["global"] > rates["isolated"]
    assert rates["selective"] == rates["global"]
    assert result["headline"]["gap_recovered"] == 1
    assert modes["stock"]["kv_bytes"] == modes["global"]["kv_bytes"]
    copies = modes["isolated"]["kv_bytes_one_copy_per_tenant"]
    assert copies > 1.5 * modes["isolated"]["kv_bytes"]
    assert modes["selective"]["kv_bytes_one_copy_per_tenant"] < copies
    prompts = {
        mode: [
            row["prompt_tokens"]
            for found in result["runs"]
            if found["mode"] == mode
            for row in found["phases"]["paced"]["answers"]
        ]
        for mode in modes
    }
    assert len({tuple(tokens) for tokens in prompts.values()}) == 1
    assert min(prompts["stock"]) > 160
    # What is common was followed from the seeder's request to being shared, once a phase.
    promoted = modes["selective"]["promotion"]
    assert promoted["sight_to_shared_s"]["n"] >= 2
    assert 0 < promoted["computed_to_judged_s"]["p50"] < promoted["sight_to_shared_s"]["p50"]
    cpu = modes["selective"]["cpu"]
    assert cpu["total_s"] > 0
    assert modes["stock"]["own_hit_rate"] == 0


def test_without_a_detector_nothing_is_shared_and_serving_goes_on(host: EngineHost) -> None:
    troubled = plan(modes=["isolated", "selective"], detectors=["off", "dead", "saturated"])
    rows = run(host, troubled, silent)["workloads"]["system"]
    assert {row["failed"] for row in rows.values()} == {0}
    # What is found beyond the tenants' own is what is shared. (How much of their own they find
    # depends on how quick the machine is: the next turn may come before the last is computed.)
    dead = rows["selective:dead"]
    assert dead["hit_rate"] == dead["own_hit_rate"]
    assert dead["promotion"] is None
    assert rows["isolated"]["hit_rate"] == rows["isolated"]["own_hit_rate"]
    assert rows["selective:off"]["hit_rate"] > rows["selective:off"]["own_hit_rate"]


def test_the_servers_counts_are_those_of_the_client(host: EngineHost) -> None:
    cold = run(host, plan(modes=["stock", "selective"], cold=True, turns=1, tenants=3), silent)
    for found in cold["runs"]:
        for phase in found["phases"].values():
            cache, answers = phase["cache"], phase["answers"]
            assert cache["prompts"] == len(answers) == 3
            assert cache["prompt_tokens"] == sum(row["prompt_tokens"] for row in answers)
            assert 0 <= cache["hit_tokens"] <= cache["prompt_tokens"]
            assert phase["promotions_before"] == []
    rows = cold["workloads"]["system"]
    assert 0 <= rows["selective"]["late_share"] <= 1


def test_a_server_that_is_killed_is_reported_with_its_last_words(model_dir: Path) -> None:
    import os
    import signal

    choice = ModelChoice(source=str(model_dir), local=True, shape="toy")
    with hf_host(choice, {}) as started:
        os.kill(started.child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="it ended with status -9"):
            started.facts()
    missing = ModelChoice(source=str(model_dir / "none"), local=True)
    with pytest.raises(EngineError, match="cannot load model"), hf_host(missing, {}):
        pass
