"""The frontier on traces small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.bench.frontier import FrontierPlan, Policy, Request, popular_blocks, read, replay, run
from safekv.cli.bench_frontier import figure, frontier
from safekv.errors import ConfigError
from safekv.types import Mode, Profile
from safekv.warden import WardenConfig


def row(at_ms: int, blocks: list[int], out: int = 10) -> dict[str, object]:
    length = 512 * len(blocks) + 20
    return {
        "timestamp": at_ms,
        "hash_ids": [*blocks, 999],
        "input_length": length,
        "output_length": out,
    }


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [
        row(0, [1, 2]),
        row(2_000, [1, 2, 3]),  # goes on with the first: its blocks begin these
        row(3_000, [1, 2, 3], out=9_000),  # another conversation: each has one continuation
        row(4_000, [1, 2, 3, 4]),  # goes on with the second, the third's answer is too long
        row(5_000, [7]),
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_a_request_continues_what_its_prompt_begins_with(trace: Path) -> None:
    requests = read(trace)
    assert [one.conversation for one in requests] == [0, 0, 1, 0, 2]
    assert requests[1] == Request(2.0, (1, 2, 3), 0)


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match="KeyError"):
        read(path)


def points() -> dict[str, Policy]:
    few = WardenConfig(profile=Profile.ANONYMOUS, threshold_low=2, threshold_width=2)
    return {
        "isolated": Policy("isolated", WardenConfig(mode=Mode.ISOLATED), 0.0),
        "paper": Policy("paper", WardenConfig(), 1.0),
        "anonymous": Policy("anonymous", few, 0.5),
        "global": Policy("global", WardenConfig(mode=Mode.UNSAFE_GLOBAL), 1.0),
    }


def rates(requests: list[Request], sensitive: float) -> dict[str, float]:
    return {
        name: replay(requests, policy, 1_000_000, sensitive, set(), seed=0)
        for name, policy in points().items()
    }


def test_hits_are_those_that_each_policy_allows() -> None:
    """Six conversations of six tenants send the same two blocks, an epoch apart."""
    requests = [Request(2.0 * n, (1, 2), n) for n in range(6)]
    found = rates(requests, 0.0)
    assert found["isolated"] == 0.0
    assert found["paper"] == found["global"] == pytest.approx(5 / 6)
    assert 3 / 6 <= found["anonymous"] + 1e-9 <= 4 / 6 + 1e-6
    assert rates(requests, 1.0)["paper"] == 0.0, "all sensitive: nothing is shared"


def test_system_prompts_are_what_many_requests_hold() -> None:
    requests = [Request(0.0, (1, n + 2), n) for n in range(60)]
    assert popular_blocks(requests) == {1}


def test_the_result_says_what_share_of_the_gap_is_left(trace: Path) -> None:
    plan = FrontierPlan(tenants=(3,), sensitive=(0.0,), thresholds=((2, 2),))
    steps: list[tuple[int, int]] = []
    result = run(read(trace), plan, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (5, 5)
    rows = result["rows"]
    assert isinstance(rows, list)
    assert [one["policy"] for one in rows] == ["paper", "paper, no safeguard", "anonymous L=2 W=2"]
    assert all(0 <= one["recovered"] <= 1 for one in rows)
    drawn = figure({"trace": "t", **result})
    assert drawn.count("<circle") == len(rows) + 2


def test_the_command_refuses_a_missing_trace() -> None:
    assert CliRunner().invoke(frontier, ["--trace", "missing"]).exit_code == 2
