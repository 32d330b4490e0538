"""False alarms on simulated isolated endpoints, and leaks found: a reduced count of the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from safekv.audit.endpoint.judge import Rules, Verdict
from safekv.audit.endpoint.simulation import NOISES, World, deviations_of, simulated_audit
from safekv.cli.main import run

AUDITS = 6
RULES = Rules(alpha=0.05)
TOO_MANY = stats.binom.ppf(0.9999, AUDITS, RULES.alpha)


@pytest.mark.parametrize("name", sorted(NOISES))
def test_isolated_endpoints_raise_few_false_alarms(name: str) -> None:
    world = World(noise=NOISES[name], blocks=30)
    found = [simulated_audit(world, RULES, seed=seed) for seed in range(AUDITS)]
    assert sum(one.alarmed for one in found) <= TOO_MANY


def test_large_leaks_are_found_and_small_ones_are_not_called_absent() -> None:
    large = World(noise=NOISES["gaussian"], leak_deviations=deviations_of(0.9), blocks=60)
    assert [simulated_audit(large, Rules(), seed=s).verdict for s in range(3)] == [Verdict.LEAK] * 3
    few = World(noise=NOISES["gaussian"], leak_deviations=deviations_of(0.7), blocks=12)
    verdicts = {simulated_audit(few, Rules(), seed=s).verdict for s in range(3)}
    assert Verdict.NO_LEAK not in verdicts


def test_the_command_writes_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit.jsonl"
    sizes = ["--audits", "1", "--power-audits", "1", "--blocks", "6", "--alpha", "0.05"]
    assert run(["audit", "calibrate", *sizes, "--json", "--out", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == shown
    assert {row["noise"] for row in shown["false_alarms"]} == set(NOISES)
    assert all(row["audits"] == 1 for row in shown["false_alarms"])
