"""A tick is timed in a tree of the wanted size, with something to do."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from safekv.bench.tick import OWN_BLOCKS, TickPlan, run
from safekv.cli.bench import bench
from safekv.errors import ConfigError
from safekv.types import Profile


def test_trees_have_the_size_and_ticks_share_what_was_cleared() -> None:
    plan = TickPlan(nodes=(200, 1000), tenants=10, cleared=(0, 5), ticks=4)
    rows = run(plan, lambda done, total: None)["rows"]
    assert [row["cleared_prompts"] for row in rows] == [0, 5, 0, 5]
    for row, size in zip(rows, (200, 200, 1000, 1000), strict=True):
        assert size <= row["nodes"] <= 1.2 * size + 20
        assert row["shared_blocks"] >= OWN_BLOCKS * size // 3
        assert row["tick_ms"]["n"] == 4
    assert rows[0]["promoted_blocks"] == 0
    assert rows[1]["promoted_blocks"] == 4 * 5 * OWN_BLOCKS


def test_anonymous_shares_nothing_that_one_tenant_sent() -> None:
    plan = TickPlan(nodes=(200,), tenants=10, cleared=(5,), ticks=2, profile=Profile.ANONYMOUS)
    (row,) = run(plan, lambda done, total: None)["rows"]
    assert row["promoted_blocks"] == 0


def test_an_interrupted_measurement_keeps_what_was_finished() -> None:
    def stop(done: int, total: int) -> None:
        if done > 300:
            raise KeyboardInterrupt

    result = run(TickPlan(nodes=(200, 4000), tenants=10, cleared=(0,), ticks=1), stop)
    assert result["partial"]
    assert len(result["rows"]) == 1


def test_the_command_prints_one_object_and_refuses_too_small_a_tree() -> None:
    done = CliRunner().invoke(bench, ["tick", "--nodes", "300", "--ticks", "2", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["benchmark"] == "tick"
    assert [row["cleared_prompts"] for row in record["rows"]] == [0, 64, 512]
    with pytest.raises(ConfigError, match=r"nodes are \[10\]"):
        TickPlan(nodes=(10,))
    assert "p99" in CliRunner().invoke(bench, ["tick", "--nodes", "300", "--ticks", "1"]).output
