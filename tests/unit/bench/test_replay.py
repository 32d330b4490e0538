"""What a replay counts, on traces small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.bench.judging import rule_judge
from safekv.bench.policies import POLICIES
from safekv.bench.replay import LONGEST_PAUSE_TICKS, ReplayPlan, run, score
from safekv.bench.tenancy import Bound, conversations, tenants
from safekv.bench.traces import Request, Trace, read_trace
from safekv.bench.traces.request import runs_of
from safekv.bench.workload import Dealing, deal
from safekv.cli.bench import bench
from safekv.errors import ConfigError

SIZE = 10
Row = tuple[float, str, list[int], bool]


def trace(*rows: Row) -> Trace:
    """Requests by time, tenant, blocks, and whether they are secret."""
    requests = [
        Request(at, SIZE * len(blocks), 0, runs_of(blocks), tenant, f"{tenant}-{n}", secret, 1)
        for n, (at, tenant, blocks, secret) in enumerate(rows)
    ]
    return Trace("by hand", "test", SIZE, requests)


def silent(_done: int, _total: int) -> None:
    return None


SHARED_PROMPT = trace(
    (0, "a", [0, 1], False),
    (1, "b", [0, 1], False),
    (20, "c", [0, 1], False),
    (21, "a", [0, 1], False),
    (40, "d", [0, 2], True),
    (60, "e", [0, 2], True),
)


def test_hits_are_counted_as_each_policy_allows() -> None:
    rows = run(SHARED_PROMPT, ReplayPlan(), silent)["policies"]
    hits = {name: round(row["hit_rate"] * 12) for name, row in rows.items()}
    assert hits == {
        "isolated": 2,  # the second request of a
        "global": 2 + 2 + 2 + 1 + 2,
        "oracle": 2 + 2 + 2 + 1 + 1,
        "first-toucher": 2 + 2 + 2 + 1 + 1,  # d parts behind block 0, and e gets no further
        "safekv-isolated": 2,
        "safekv-declared": 1 + 2 + 1 + 1,  # block 0 from the first tick on
        "safekv-anonymous": 2,  # four contributors are no crowd
        "safekv-paper": 2 + 2 + 1 + 1,  # b came before the tick
        "safekv-paper-unguarded": 2 + 2 + 1 + 1,
    }


def test_what_a_stranger_can_confirm_is_counted() -> None:
    rows = run(SHARED_PROMPT, ReplayPlan(), silent)["policies"]
    exposed = {name: row["attacker_advantage"] for name, row in rows.items()}
    assert exposed["global"] == 1
    assert not any(exposed[name] for name in POLICIES if name != "global")
    early = run(trace((0, "a", [0, 1], True)), ReplayPlan(), silent)["policies"]
    assert early["first-toucher"]["attacker_advantage"] == 1  # nobody has parted there yet
    assert early["safekv-paper"]["attacker_advantage"] == 0
    missed = ReplayPlan(dealing=Dealing(recall=0), policies=["safekv-paper"])
    assert run(SHARED_PROMPT, missed, silent)["policies"]["safekv-paper"]["attacker_advantage"] == 1


def test_false_flags_cost_sharing() -> None:
    plan = ReplayPlan(dealing=Dealing(false_flags=1), policies=["safekv-paper", "safekv-declared"])
    rows = run(SHARED_PROMPT, plan, silent)["policies"]
    assert rows["safekv-paper"]["hit_rate"] == rows["safekv-declared"]["hit_rate"]


def test_the_safeguard_costs_what_few_tenants_read_often() -> None:
    """One tenant reads much of what another sent: a prober, or a small deployment."""
    rows = [(float(n), "a", [0, n + 1], False) for n in range(30)]
    rows += [(40.0 + 10 * n, "b", [0, n + 1], False) for n in range(30)]
    plan = ReplayPlan(policies=["safekv-paper", "safekv-paper-unguarded"])
    found = run(trace(*rows), plan, silent)["policies"]
    assert found["safekv-paper-unguarded"]["gap_recovered"] == 1
    assert found["safekv-paper"]["gap_recovered"] < 0.7


def test_copies_are_counted_where_content_is_stored_twice() -> None:
    rows = run(SHARED_PROMPT, ReplayPlan(), silent)["policies"]
    assert rows["isolated"]["duplicate_kv_ratio"] == 10 / 3
    assert rows["safekv-isolated"]["duplicate_kv_ratio"] == 1
    assert rows["global"]["duplicate_kv_ratio"] == 1


def test_the_gap_is_measured_between_isolated_and_global() -> None:
    rows = run(SHARED_PROMPT, ReplayPlan(), silent)["policies"]
    assert rows["isolated"]["gap_recovered"] == 0
    assert rows["global"]["gap_recovered"] == 1
    assert rows["oracle"]["gap_recovered"] == pytest.approx(6 / 7)
    alone = run(trace((0, "a", [0], False)), ReplayPlan(), silent)["policies"]
    assert alone["global"]["gap_recovered"] is None


@pytest.mark.parametrize("name", POLICIES)
def test_memory_is_never_exceeded_and_short_memory_costs_hits(name: str) -> None:
    rows = [(float(n), f"t{n % 3}", [n % 4 * 5 + k for k in range(5)], False) for n in range(60)]
    plan = ReplayPlan(policies=[name], budget=None)
    whole = run(trace(*rows), plan, silent)["policies"][name]
    tight = ReplayPlan(policies=[name], budget=0.5)
    short = run(trace(*rows), tight, silent)
    assert short["capacity_blocks"] == 10
    assert short["policies"][name]["hit_rate"] < whole["hit_rate"]


def test_a_policy_that_cannot_be_is_reported_and_the_others_go_on() -> None:
    many = trace(*((float(n), f"t{n}", [0, n + 1], False) for n in range(40)))
    rows = run(many, ReplayPlan(budget=0.2), silent)["policies"]
    assert "no quota left" in rows["safekv-paper"]["error"]
    assert "hit_rate" in rows["global"]


def test_an_interrupted_replay_keeps_what_was_finished() -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 2 * len(SHARED_PROMPT.requests):
            raise KeyboardInterrupt

    result = run(SHARED_PROMPT, ReplayPlan(), stop)
    assert result["partial"]
    assert list(result["policies"]) == ["isolated", "global"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"policies": ["nothing"]},
        {"budget": 0.0},
        {"epoch_s": 0.0},
    ],
)
def test_a_wrong_plan_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ReplayPlan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"recall is 1\.5"):
        Dealing(recall=1.5)


def unlabelled(*rows: tuple[float, list[int]]) -> Trace:
    requests = [Request(at, SIZE * len(b) + 5, 3, runs_of(b)) for at, b in rows]
    return Trace("by hand", "test", SIZE, requests)


def test_strict_gives_every_branch_a_conversation_and_merge_gives_them_one() -> None:
    found = unlabelled((0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 3]), (3, [7]))
    strict = conversations(found, Bound.STRICT)
    assert strict[0] == strict[1]
    assert len(set(strict)) == 3
    merged = conversations(found, Bound.MERGE)
    assert merged[0] == merged[1] == merged[2] != merged[3]


def test_tenants_depend_on_the_conversation_and_the_seed_alone() -> None:
    found = unlabelled(*((float(n), [n]) for n in range(100)))
    first = tenants(found, Bound.STRICT, 10, seed=1)
    assert first == tenants(found, Bound.STRICT, 10, seed=1)
    assert first != tenants(found, Bound.STRICT, 10, seed=2)
    assert len(set(first)) == 10


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}
    path.write_text("".join(json.dumps({**row, "timestamp": n * 1000}) + "\n" for n in range(5)))
    done = CliRunner().invoke(bench, ["replay", "--trace", str(path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {"trace", "requests", "tokens", "policies", "environment"} <= set(result)
    assert set(result["policies"]) == set(POLICIES)
    table = CliRunner().invoke(bench, ["replay", "--trace", str(path)])
    assert "safekv-paper" in table.output


def test_a_long_silence_ends_every_window_and_costs_a_bounded_number_of_ticks() -> None:
    """A time in another unit, or one broken line, must not make the replay run for days."""
    before = [(0.0, "a", [0, 1], False), (1e12, "b", [0, 1], False), (1e12 + 1, "b", [0], False)]
    rows = run(trace(*before), ReplayPlan(policies=["safekv-paper"]), silent)["policies"]
    assert rows["safekv-paper"]["hit_rate"] == 3 / 5
    ticks = 0

    class Counting:
        def serve(self, placed: object) -> int:
            return 0

        def tick(self) -> int:
            nonlocal ticks
            ticks += 1
            return 0

        def exposes(self, placed: object) -> bool:
            return False

        def copies(self) -> tuple[int, int]:
            return 1, 1

    score(Counting(), deal(trace(*before), Dealing()), 10.0, lambda n: None)
    assert ticks == LONGEST_PAUSE_TICKS + 1
    ticks = 0
    score(Counting(), deal(SHARED_PROMPT, Dealing()), 10.0, lambda n: None)
    assert ticks == 6 + 1


def test_tenants_that_got_no_request_are_counted() -> None:
    one = unlabelled((0.0, [0, 1]))
    result = run(one, ReplayPlan(dealing=Dealing(tenants=10)), silent)
    assert result["tenants"] == 1
    assert result["notes"] == {"tenants_without_requests": 9}
    assert result["policies"]["safekv-paper"]["gap_recovered"] is None
    assert "tenants_without_requests" not in run(SHARED_PROMPT, ReplayPlan(), silent)["notes"]


def test_every_policy_says_what_a_missed_secret_is_worth() -> None:
    rows = run(SHARED_PROMPT, ReplayPlan(), silent)["policies"]
    missed = {name: row["attacker_advantage_if_missed"] for name, row in rows.items()}
    assert set(missed) == set(POLICIES)
    assert missed["safekv-anonymous"] == 1 / 32
    # Where the replay lets the detector miss everything, no more than that is exposed.
    blind = run(SHARED_PROMPT, ReplayPlan(dealing=Dealing(recall=0)), silent)["policies"]
    assert all(row["attacker_advantage"] <= missed[name] for name, row in blind.items())
    assert blind["safekv-paper"]["attacker_advantage"] == 1


def test_texts_are_judged_by_the_rules_where_the_trace_has_them(tmp_path: Path) -> None:
    common = "You are the assistant of a shop for garden tools. Answer kindly and in short. " * 3
    card = "My card is 4111 1111 1111 1111, please charge it there as you did before. " * 2
    rows = [
        {"text": common + card, "tenant": "a", "timestamp": 0},
        {"text": common + card, "tenant": "b", "timestamp": 60},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = read_trace(path, judge=rule_judge())
    assert [request.cleared_blocks for request in judged.requests] == [3, 3]
    assert [request.n_blocks for request in judged.requests] == [5, 5]
    plan = ReplayPlan(policies=["safekv-paper", "oracle"])
    result = run(judged, plan, silent)
    assert result["secret_requests"] == 2
    assert result["policies"]["safekv-paper"]["hit_rate"] == 3 * 64 / (2 * len(common + card))
    assert result["policies"]["safekv-paper"]["attacker_advantage"] == 0
    # What the trace itself calls no secret stays none, though the detector flags it.
    path.write_text("".join(json.dumps({**row, "sensitive": False}) + "\n" for row in rows))
    assert run(read_trace(path, judge=rule_judge()), plan, silent)["secret_requests"] == 0
    done = CliRunner().invoke(
        bench, ["replay", "--trace", str(path), "--by-detector", "--json", "--policy", "oracle"]
    )
    assert done.exit_code == 0, done.output
    hashes = tmp_path / "h.jsonl"
    hashes.write_text('{"timestamp":0,"input_length":512,"output_length":1,"hash_ids":[1]}')
    with pytest.raises(ConfigError, match="no text that a detector could judge"):
        read_trace(hashes, judge=rule_judge())
