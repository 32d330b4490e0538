"""`safekv bench detector` on a small model: both arms are measured, and the load was one."""

from __future__ import annotations

from pathlib import Path

from safekv.bench.detector import DetectorPlan, run
from safekv.detect.config import DetectConfig


async def test_both_arms_are_measured_and_prompts_were_judged(tiny_dir: Path) -> None:
    plan = DetectorPlan(rounds=2, hits=1, prompt_tokens=65)
    record = await run("tiny", tiny_dir, DetectConfig(stages=("rules",)), plan)
    for arm in ("idle", "saturated"):
        assert {kind: len(times) for kind, times in record["samples_s"][arm].items()} == {
            "miss": 2, "hit": 2,
        }  # fmt: skip
    assert record["judged_prompts"] > 0
    assert set(record["ratio_saturated_to_idle"]) == {"miss", "hit"}
