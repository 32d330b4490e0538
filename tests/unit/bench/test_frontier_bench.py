"""The frontier on traces small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safekv.bench.frontier import FrontierPlan, run
from safekv.bench.traces import Request, Trace
from safekv.bench.traces.request import runs_of
from safekv.cli.bench_frontier import figure, frontier
from safekv.errors import ConfigError

SIZE = 10


def trace(*rows: tuple[float, str, list[int]]) -> Trace:
    """Requests by time, tenant and blocks, each a conversation of its own."""
    requests = [
        Request(at, SIZE * len(blocks), 1, runs_of(blocks), tenant, str(n))
        for n, (at, tenant, blocks) in enumerate(rows)
    ]
    return Trace("by hand", "test", SIZE, requests)


SIX_TENANTS = trace(*((2.0 * n, f"t{n}", [1, 2]) for n in range(6)))


def quiet(_done: int, _total: int) -> None:
    return None


def rows_of(plan: FrontierPlan, requests: Trace = SIX_TENANTS) -> dict[str, dict[str, Any]]:
    rows = run(requests, plan, quiet)["rows"]
    assert isinstance(rows, list)
    return {row["policy"]: row for row in rows}


def test_hits_are_those_that_each_policy_allows() -> None:
    """Six tenants send the same two blocks, an epoch apart."""
    found = rows_of(FrontierPlan(tenants=(6,), sensitive=(0.0,), thresholds=((2, 2), (8, 32))))
    assert {row["isolated"] for row in found.values()} == {0.0}
    assert all(row["global"] == pytest.approx(5 / 6) for row in found.values())
    assert found["paper"]["recovered"] == found["paper, no safeguard"]["recovered"] == 1.0
    # Each block is shared once two or three tenants computed it: three or four then read it.
    assert 3 / 5 - 1e-9 <= found["anonymous L=2 W=2"]["recovered"] <= 4 / 5 + 1e-9
    assert found["anonymous L=8 W=32"]["recovered"] == 0.0
    assert [row["advantage"] for row in found.values()] == [1.0, 1.0, 0.5, 1 / 32]


def test_what_is_secret_is_not_shared() -> None:
    found = rows_of(FrontierPlan(tenants=(6,), sensitive=(1.0,), thresholds=((2, 2),)))
    assert {row["recovered"] for row in found.values()} == {0.0}


def test_a_trace_without_a_gap_has_no_share_of_it() -> None:
    found = rows_of(
        FrontierPlan(tenants=(1,), sensitive=(0.1,), thresholds=((2, 2),)),
        trace((0.0, "a", [1]), (5.0, "a", [1])),
    )
    assert {row["recovered"] for row in found.values()} == {None}
    figure({"trace": "t", "rows": list(found.values())})


def test_every_replay_is_reported_and_drawn() -> None:
    plan = FrontierPlan(tenants=(3, 6), sensitive=(0.0, 0.5), thresholds=((2, 2),))
    steps: list[tuple[int, int]] = []
    result = run(SIX_TENANTS, plan, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (16, 16)
    assert len(steps) == 16
    rows = result["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 12
    assert figure({"trace": "t", **result}).count("<circle") == len(rows) + 2


def test_the_command_reads_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}
    path.write_text("".join(json.dumps({**row, "timestamp": n * 2000}) + "\n" for n in range(5)))
    arguments = ["--trace", str(path), "--tenants", "3", "--sensitive", "10", "--json"]
    done = CliRunner().invoke(frontier, arguments)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["rows"]) == 5
    missing = CliRunner().invoke(frontier, ["--trace", "missing"])
    assert isinstance(missing.exception, ConfigError)
