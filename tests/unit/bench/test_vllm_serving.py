"""What `safekv bench vllm` asks its engines, and what it makes of their answers."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from safekv.bench.vllm.serving import KINDS, Chat, Run, ServingPlan, _bars, front_cost
from safekv.errors import ConfigError

COST_S = {"global": 1.0, "salt": 2.0, "safekv": 1.03}


class Script:
    """Stands in the place of one engine's process: keeps what it is asked, answers fixed times."""

    def __init__(self, kind: str, journal: list[str]) -> None:
        self.kind, self.journal = kind, journal
        self.asked: list[dict[str, Any]] = []
        self._n = count()

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append(json.loads(json.dumps(request)))
        match request["do"]:
            case "serve":
                self.journal.append(self.kind)
                slow = 1.0 + next(self._n) % 5
                results = [
                    {
                        "ttft_s": COST_S[self.kind] * slow,
                        "prompt_tokens": 9,
                        "output_tokens": 4,
                        "text": f"answer of {self.kind if len(each['messages']) > 3 else 'all'}",
                    }
                    for each in request["requests"]
                ]
                return {"seconds": COST_S[self.kind], "results": results}
            case "cached":
                return {"blocks": {"global": 100, "salt": 400, "safekv": 108}[self.kind]}
        return {"waited_s": 0.5, "shared_blocks": 3, "settled": True}


@pytest.fixture
def plan() -> ServingPlan:
    return ServingPlan(
        tenants=(4,), system_tokens=64, turns=2, chatting=2, batches=2, control=6, first_turns=3
    )


@pytest.fixture
def scripts() -> dict[str, Script]:
    journal: list[str] = []
    return {kind: Script(kind, journal) for kind in KINDS}


def run_of(scripts: dict[str, Script], plan: ServingPlan, ticks: list[None]) -> Run:
    return Run(scripts, plan, lambda: ticks.append(None))  # type: ignore[arg-type]


def test_every_engine_gets_the_same_questions_and_its_own_answers(
    scripts: dict[str, Script], plan: ServingPlan
) -> None:
    run_of(scripts, plan, []).shared(4)
    seen = [[r for r in each.asked if r["do"] == "serve"] for each in scripts.values()]
    texts = [
        [
            [m["content"] for m in one["messages"] if m["role"] != "assistant"]
            for request in requests
            for one in request["requests"]
        ]
        for requests in seen
    ]
    assert texts[0] == texts[1] == texts[2]
    systems = {one[0] for one in texts[0]}
    assert len(systems) == 1
    # Everybody's question is another one.
    assert len({one[-1] for one in texts[0]}) == len(texts[0])
    later = [r for r in seen[2] if len(r["requests"][0]["messages"]) > 2]
    assert later[0]["requests"][0]["messages"][2] == {
        "role": "assistant",
        "content": "answer of all",
    }


def test_engines_take_turns_at_being_first(scripts: dict[str, Script], plan: ServingPlan) -> None:
    run_of(scripts, plan, []).control()
    journal = scripts["global"].journal
    rounds = [journal[at : at + 3] for at in range(0, len(journal), 3)]
    assert all(sorted(each) == sorted(KINDS) for each in rounds)
    assert {each[0] for each in rounds} == set(KINDS)


def test_ratios_are_paired_so_that_a_slow_minute_cancels_out(
    scripts: dict[str, Script], plan: ServingPlan
) -> None:
    measured = run_of(scripts, plan, [])
    shared, control = measured.shared(4), measured.control()
    assert shared["first_turn"]["to_global"]["value"] == pytest.approx(1.03)
    assert shared["first_turn"]["to_salt"]["value"] == pytest.approx(0.515)
    # The first tenant only fills the caches.
    assert shared["first_turn"]["ttft_s"]["global"]["n"] == 3
    assert shared["batches"]["output_tokens_per_s"]["global"] == pytest.approx(16.0)
    assert shared["kv_memory_ratio"] == pytest.approx(1.08)
    assert control["to_global"]["value"] == pytest.approx(1.03)
    bars = _bars([shared], control)
    assert bars["control"]["worst"] == pytest.approx(1.03)
    assert {name: each["met"] for name, each in bars.items()} == {
        "first_turn": True,
        "control": False,
        "kv_memory": True,
    }


def test_the_worst_number_of_tenants_counts(scripts: dict[str, Script], plan: ServingPlan) -> None:
    measured = run_of(scripts, plan, [])
    good, control = measured.shared(4), measured.control()
    bad = {**good, "kv_memory_ratio": 1.5}
    assert _bars([good, bad, good], control)["kv_memory"]["met"] is False


def test_progress_ends_at_the_announced_number(
    scripts: dict[str, Script], plan: ServingPlan
) -> None:
    ticks: list[None] = []
    measured = run_of(scripts, plan, ticks)
    measured.control()
    measured.shared(4)
    assert len(ticks) == plan.steps()


def test_texts_differ_from_their_first_block_on(
    scripts: dict[str, Script], plan: ServingPlan
) -> None:
    measured = run_of(scripts, plan, [])
    starts = {measured.sentences(64)[:20] for _ in range(50)}
    assert len(starts) == 50


def test_a_chat_keeps_one_history_per_engine() -> None:
    chat = Chat.begin("t", "system")
    chat.ask("one")
    chat.answered("salt", "an answer")
    assert len(chat.request("salt", 4)["messages"]) == 3
    assert len(chat.request("global", 4)["messages"]) == 2


@pytest.mark.parametrize(
    "changed", [{"tenants": (2,)}, {"tenants": ()}, {"turns": 0}, {"control": 1}, {"batches": 0}]
)
def test_a_plan_that_measures_nothing_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServingPlan(**changed)


def test_the_fronts_cost_is_measured_on_a_chat_of_that_length() -> None:
    bodies: list[bytes] = []
    found = front_cost(bodies.append, 100, calls=5)
    assert len(bodies) == 5
    assert found["body_bytes"] == len(bodies[0])
    assert json.loads(bodies[0])["messages"][0]["content"].count("gardener") == 10
    assert 0 < found["p50_us"] <= found["p95_us"]


def test_few_tenants_are_measured_in_several_groups_each_behind_a_prompt_of_its_own(
    scripts: dict[str, Script],
) -> None:
    plan = ServingPlan(tenants=(4, 32), system_tokens=64, turns=1, batches=1, first_turns=7)
    assert [plan.groups(n) for n in plan.tenants] == [3, 1]
    ticks: list[None] = []
    run = run_of(scripts, plan, ticks)
    four, many = run.shared(4), run.shared(32)
    assert [four["first_turn"]["ttft_s"]["global"]["n"], four["groups"]] == [9, 3]
    assert [many["first_turn"]["ttft_s"]["global"]["n"], many["groups"]] == [31, 1]
    assert len(ticks) == plan.steps() - plan.control
    asked = scripts["safekv"].asked
    assert [one["do"] for one in asked].count("reset") == 4
    systems = [
        request["messages"][0]["content"]
        for one in asked
        if one["do"] == "serve"
        for request in one["requests"]
    ]
    assert len(set(systems)) == 4
