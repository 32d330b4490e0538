"""`bench masked` and `bench drift` on a tiny model: what they count, not how long it took."""

from __future__ import annotations

from pathlib import Path

from safekv.bench import drift, masked


async def test_drift_counts_answers_that_differ(tiny_dir: Path) -> None:
    plan = drift.DriftPlan(prompts=2, prompt_tokens=70, new_tokens=6, dtypes=("float32",))
    found = (await drift.run("tiny", tiny_dir, plan))["differing"]["float32"]
    assert found["hit"]["prompts"] == found["miss_again"]["prompts"] == 2
    assert found["hit"]["value"] == 0.0, "float32 on one machine"


def test_drift_knows_where_answers_part() -> None:
    rows = [("abc", "abc", "abd"), ("xyz", "xyz", "xyz")]
    found = drift._differing(rows, 2)
    assert (found["value"], found["first_difference_character"]) == (0.5, 2)
    assert drift._differing(rows, 1)["value"] == 0.0


async def test_masked_probes_each_side_and_counts_late_answers(tiny_dir: Path) -> None:
    plan = masked.MaskedPlan(rounds=2, prompt_tokens=70, new_tokens=2)
    found = await masked.run("tiny", tiny_dir, plan)
    assert set(found["told"]) == {"isolated", "immediate", "masked"}
    for samples in found["samples"].values():
        assert all(len(times) == 2 for times in samples.values())
    assert 0.0 <= found["beta"]["low"] <= found["beta"]["value"] <= found["beta"]["high"] <= 1.0
    assert found["throughput_gain"]["isolated"] == 1.0
