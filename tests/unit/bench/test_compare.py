"""A regression is flagged, noise is not, and what is not alike is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safekv.bench.compare import compare, metrics
from safekv.bench.records import read
from safekv.cli.bench import bench
from safekv.errors import ConfigError


def engine(value: float, spread: float = 0.02, **changes: Any) -> dict[str, Any]:
    ratio = {"value": value, "low": value - spread, "high": value + spread}
    ratios = {"ttft_hit_s": ratio, "throughput_tok_s": dict(ratio)}
    return {
        "benchmark": "engine",
        "model": "m",
        "plan": {"rounds": 3},
        "ratio_safekv_to_transformers": ratios,
    } | changes


def replay(hit_rate: float, **changes: Any) -> dict[str, Any]:
    row = {"hit_rate": hit_rate, "attacker_advantage": 0.1, "duplicate_kv_ratio": 1.0}
    return {
        "benchmark": "replay",
        "trace": "t",
        "tenants": 10,
        "policies": {"safekv-paper": row, "x": {"error": "no quota left"}},
    } | changes


def verdicts(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, str]:
    return {change["name"]: change["verdict"] for change in compare(before, after)}


def test_a_change_beyond_both_intervals_is_flagged_in_the_right_direction() -> None:
    assert verdicts([engine(1.0)], [engine(1.1)]) == {
        "safekv/transformers ttft_hit_s": "worse",
        "safekv/transformers throughput_tok_s": "better",
    }
    assert set(verdicts([engine(1.0)], [engine(1.1, spread=0.2)]).values()) == {"same"}
    assert set(verdicts([engine(1.0, 0.001)], [engine(1.01, 0.001)]).values()) == {"same"}


def test_a_replay_has_no_noise() -> None:
    found = verdicts([replay(0.37)], [replay(0.3699)])
    assert found["safekv-paper hit_rate"] == "worse"
    assert found["safekv-paper attacker_advantage"] == "same"
    assert verdicts([replay(0.37)], [replay(0.38)])["safekv-paper hit_rate"] == "better"


def test_only_equal_settings_are_compared_and_the_last_record_of_each_counts() -> None:
    assert compare([replay(0.3)], [replay(0.2, tenants=100)]) == []
    assert compare([engine(1.0)], [engine(2.0, partial=True)]) == []
    found = verdicts([replay(0.1), replay(0.37)], [replay(0.9), replay(0.37)])
    assert found["safekv-paper hit_rate"] == "same"
    assert metrics({"benchmark": "never heard of"}) == []


def test_ticks_and_serving_are_compared(tmp_path: Path) -> None:
    def tick(ms: float) -> dict[str, Any]:
        row = {"nodes": 10_400, "cleared_prompts": 0, "samples_ms": [ms, ms * 1.01] * 10}
        return {"benchmark": "tick", "plan": {}, "rows": [row]}

    assert set(verdicts([tick(1.0)], [tick(1.5)]).values()) == {"worse"}

    def serve(share: float) -> dict[str, Any]:
        ratio = {"value": 1.0, "low": 0.9, "high": 1.1}
        row = {"own_cpu_share": share, "own_cpu_share_by_run": [share], "failed": 0}
        return {
            "benchmark": "serve",
            "model": {"device": str(share)},
            "comparisons": {"system": {"selective/global": {"ttft_p50": ratio, "tpot_p50": None}}},
            "workloads": {"system": {"selective": row}},
        }

    assert verdicts([serve(0.01)], [serve(0.02)]) == {
        "system selective/global ttft_p50": "same",
        "system selective own_cpu_share": "worse",
    }


def test_the_commands_exit_status_says_what_was_found(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("old.jsonl", "new.jsonl", "other.jsonl"))
    old.write_text(json.dumps(engine(1.0)) + "\n")
    new.write_text(json.dumps(engine(1.2)) + "\n")
    other.write_text(json.dumps(replay(0.3)) + "\n")
    run = CliRunner().invoke
    assert run(bench, ["compare", str(old), str(old)]).exit_code == 0
    worse = run(bench, ["compare", str(old), str(new), "--json"])
    assert worse.exit_code == 1
    assert json.loads(worse.stdout)["worse"] == 1
    assert "worse" in run(bench, ["compare", str(old), str(new)]).output
    assert run(bench, ["compare", str(old), str(other)]).exit_code == 3
    folder = run(bench, ["compare", str(tmp_path), str(tmp_path), "--all"])
    assert folder.exit_code == 0, folder.output


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n\nnonsense\n')
    with pytest.raises(ConfigError, match="line 3: not a JSON object"):
        read(path)
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ConfigError, match="line 2: not a JSON object"):
        read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no records"):
        read(tmp_path / "empty")


def test_the_stored_records_can_be_read_and_compared_with_themselves() -> None:
    stored = read(Path(__file__).parents[3] / "docs" / "records")
    changes = compare(stored, stored)
    assert len(changes) > 20
    assert {change["verdict"] for change in changes} == {"same"}
